"""Rights, rejections, caps and silent callers, over real sockets and real TLS."""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from daemon.config import ConfigError, PeerSection, SimilarSection, TlsSection
from daemon.network import caller_of, may, rights_of, serve
from daemon.tls import tls_context

ANYONE = (PeerSection(ae_title="*"),)
FIND = StudyRootQueryRetrieveInformationModelFind


@contextmanager
def server(peers=ANYONE, handlers=(), tls=None, **section):
    ae = AE()
    ae.add_supported_context(Verification)
    ae.add_supported_context(FIND)
    running = serve(ae, SimilarSection(port=0, **section), list(handlers), peers=peers, tls=tls, required_right="query")
    try:
        yield running
    finally:
        running.shutdown()


def call(running, calling="WORKSTATION", called="CXRSIMILAR", tls_args=None):
    ae = AE(calling)
    ae.add_requested_context(Verification)
    ae.add_requested_context(FIND)
    return ae.associate("127.0.0.1", running.port, ae_title=called, tls_args=tls_args)


def rejection_of(running, **caller):
    """Return how a call is rejected.

    pynetdicom looks whether it could connect when the answer may have come, and the connection been closed behind it:
    such a call is "aborted" at its own side, and is made again.
    """
    calls = (call(running, **caller) for _ in range(10))
    assoc = next(each for each in calls if not each.is_aborted)
    assert assoc.is_rejected
    answer = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def echo(assoc):
    assert assoc.is_established
    status = assoc.send_c_echo().Status
    assoc.release()
    return status


# ---- rights


PEERS = (
    PeerSection(ae_title="ONE", address="10.1.2.3", rights=("store",)),
    PeerSection(ae_title="ONE", address="10.9.0.0/16", rights=("query",)),
    PeerSection(ae_title="*", address="127.0.0.1", rights=("query", "text")),
    PeerSection(ae_title="SAFE", certificate_sha256="AB:CD", rights=("mode_c",)),
)


@pytest.mark.parametrize(
    ("caller", "rights"),
    [
        (("ONE", "10.1.2.3"), {"store"}),
        (("ONE ", "10.1.2.3"), {"store"}),
        (("ONE", "10.9.77.1"), {"query"}),
        (("ONE", "10.1.2.4"), set()),
        (("one", "10.1.2.3"), set()),
        (("TWO", "::ffff:127.0.0.1"), {"query", "text"}),
        (("ONE", "127.0.0.1"), {"query", "text"}),
        (("SAFE", "10.0.0.1", "abcd"), {"mode_c"}),
        (("SAFE", "10.0.0.1", "abce"), set()),
        (("SAFE", "10.0.0.1"), set()),
    ],
)
def test_rights_follow_title_address_and_certificate(caller, rights):
    assert rights_of(PEERS, *caller) == rights
    for right in ("store", "query", "text", "mode_c"):
        assert may(PEERS, *caller[:2], right, *caller[2:]) == (right in rights)


# ---- rejections


def test_an_unknown_called_title_is_rejected_as_the_standard_says():
    with server() as running:
        assert rejection_of(running, called="OTHER") == (1, 1, 7)


def test_a_caller_without_the_right_is_rejected_as_the_standard_says():
    peers = (PeerSection(ae_title="SENDER", rights=("store",)), PeerSection(ae_title="FAR", address="192.0.2.1"))
    with server(peers) as running:
        assert rejection_of(running, calling="SENDER") == (1, 1, 3)
        assert rejection_of(running, calling="FAR") == (1, 1, 3)
        assert rejection_of(running, calling="NOBODY") == (1, 1, 3)


@pytest.mark.parametrize("limit", ["maximum_associations", "maximum_associations_per_address"])
def test_more_associations_than_allowed_are_rejected_for_now_and_welcome_later(limit):
    with server(**{limit: 1}) as running:
        first = call(running)
        assert first.is_established
        assert rejection_of(running) == (2, 3, 2)
        first.release()
        for _ in range(50):                         # the place is free as soon as our thread has noticed
            again = call(running)
            if again.is_established:
                break
        assert echo(again) == 0


# ---- silent callers


def test_silent_connections_delay_nobody_and_take_no_association_s_place():
    with server(maximum_associations=2, acse_timeout_s=600) as running:
        silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(6)]
        for _ in range(3):
            assert echo(call(running)) == 0
        for connection in silent:
            connection.close()


def test_a_silent_connection_is_dropped_when_artim_expires():
    with server(acse_timeout_s=0.2) as running, socket.create_connection(("127.0.0.1", running.port)) as silent:
        silent.settimeout(30)
        assert silent.recv(1) == b""


def test_an_idle_association_is_ended():
    with server(network_timeout_s=0.3) as running:
        assoc = call(running)
        assoc.join(30)
        assert assoc.is_aborted


@pytest.mark.parametrize(
    "nonsense",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\xff\xff\xff\xff", b"\x04\0\0\0\0\x04\0\0\0\0", b"\x01\0\0\0\0\x04abcd"],
)
def test_nonsense_ends_its_own_connection_only(nonsense):
    with server(acse_timeout_s=600) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.settimeout(30)
            connection.sendall(nonsense)
            while connection.recv(100):             # perhaps an A-ABORT, then the end
                pass
        assert echo(call(running)) == 0


def test_a_pdv_longer_than_its_pdu_aborts_the_association():
    with server() as running:
        assoc = call(running)
        assoc.dul.socket.socket.sendall(b"\x04\0\0\0\0\x08\0\0\xff\xff\x01\x03ab")
        assoc.join(30)
        assert assoc.is_aborted
        assert echo(call(running)) == 0


# ---- the wire


def test_answers_leave_without_nagle_and_128_kib_are_announced():
    seen = []

    def on_echo(event):
        seen.append(event.assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        seen.append(caller_of(event.assoc).ae_title)
        return 0

    with server(handlers=[(evt.EVT_C_ECHO, on_echo)]) as running:
        assoc = call(running)
        assert assoc.acceptor.maximum_length == 128 * 1024
        assert echo(assoc) == 0
    assert seen[0] != 0
    assert seen[1] == "WORKSTATION"


def test_many_answers_arrive_in_order_and_a_cancel_is_seen():
    cancelled = threading.Event()

    def on_find(event):
        for number in range(500):
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.StudyInstanceUID = "STUDY", f"1.2.{number}"
            yield 0xFF00, answer
            seen = event.is_cancelled               # tells it once
            if number == 250:
                cancelled.wait(30)
                until = time.monotonic() + 30       # sent is not yet read, where others have the core
                while not seen and time.monotonic() < until:
                    time.sleep(0.01)
                    seen = event.is_cancelled
            if seen:
                yield 0xFE00, None
                return

    with server(handlers=[(evt.EVT_C_FIND, on_find)]) as running:
        assoc = call(running)
        request = Dataset()
        request.QueryRetrieveLevel, request.StudyInstanceUID = "STUDY", ""
        uids, statuses = [], []
        for status, answer in assoc.send_c_find(request, FIND, msg_id=7):
            statuses.append(status.Status)
            if answer is not None:
                uids.append(answer.StudyInstanceUID)
            if len(uids) == 200:
                assoc.send_c_cancel(7, query_model=FIND)
                cancelled.set()
        assert uids == [f"1.2.{number}" for number in range(len(uids))]
        assert 200 <= len(uids) < 500
        assert statuses[-1] == 0xFE00
        assoc.release()


def test_identifiers_with_patients_names_do_not_reach_the_log(caplog):
    def on_find(event):
        answer = Dataset()
        answer.PatientName = "Roe^Jane"
        yield 0xFF00, answer

    with caplog.at_level(logging.DEBUG), server(handlers=[(evt.EVT_C_FIND, on_find)]) as running:
        assoc = call(running)
        request = Dataset()
        request.QueryRetrieveLevel, request.PatientName = "STUDY", "Doe^John"
        assert len(list(assoc.send_c_find(request, FIND))) == 2
        assoc.release()
    assert "Doe" not in caplog.text
    assert "Roe" not in caplog.text


def test_associations_may_finish_before_the_server_is_gone():
    with server() as running:
        assoc = call(running)
        ending = threading.Thread(target=running.shutdown, kwargs={"grace_s": 30})
        ending.start()
        assert assoc.send_c_echo().Status == 0
        assoc.release()
        ending.join(30)
        assert not ending.is_alive()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", running.port))


# ---- TLS


def _tls(folder, **changes):
    names = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem"), "ca": str(folder / "cert.pem")}
    return TlsSection(**(names | changes))


def _client(folder, with_certificate=True):
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    context.check_hostname = False
    if with_certificate:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, "localhost"


def test_over_tls_a_silent_client_delays_nobody_and_rights_follow_the_certificate(certificate):
    der = ssl.PEM_cert_to_DER_cert((certificate / "cert.pem").read_text())
    peers = (PeerSection(ae_title="WORKSTATION", certificate_sha256=hashlib.sha256(der).hexdigest()),)
    with server(peers, tls=_tls(certificate), acse_timeout_s=600) as running:
        silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
        assert echo(call(running, tls_args=_client(certificate))) == 0
        assert rejection_of(running, calling="OTHER", tls_args=_client(certificate)) == (1, 1, 3)
        for connection in silent:
            connection.close()


def test_over_tls_a_client_without_certificate_is_refused(certificate):
    with server(tls=_tls(certificate)) as running:
        assert not call(running, tls_args=_client(certificate, with_certificate=False)).is_established
        assert not call(running).is_established
    with server(tls=_tls(certificate, require_client_certificate=False)) as running:
        assert echo(call(running, tls_args=_client(certificate, with_certificate=False))) == 0


def test_tls_files_that_cannot_be_used_are_named_with_the_cure(certificate):
    with pytest.raises(ConfigError, match=r"tls\.ca"):
        tls_context(_tls(certificate, ca=""))
    with pytest.raises(ConfigError, match="PEM"):
        tls_context(_tls(certificate, key=str(certificate / "absent.pem")))


def test_what_has_not_finished_in_time_is_aborted_and_no_thread_is_left():
    with server(acse_timeout_s=600) as running:
        before = {thread.name for thread in threading.enumerate() if "AcceptorThread" in thread.name}
        open_ones = [call(running) for _ in range(3)]
        silent = socket.create_connection(("127.0.0.1", running.port))
        assert echo(call(running)) == 0             # so that the silent one has been accepted, too
        running.shutdown(grace_s=0.1)
        for assoc in open_ones:
            assoc.join(30)
            assert assoc.is_aborted
        silent.settimeout(30)
        assert silent.recv(1) == b""
        silent.close()
        assert {thread.name for thread in threading.enumerate() if "AcceptorThread" in thread.name} <= before
