"""How requests come in and answers go out, over real associations."""

import shutil
import ssl
import subprocess

import numpy as np
import pytest
from finder_archive import FIND
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.dimse import DIMSEServiceProvider
from toy_encoder import DIM

from daemon.config import PeerSection, SimilarSection, TlsSection
from daemon.finder import private
from daemon.finder.exchange import Exchange, QueryingAssociation
from daemon.finder.wire import Syntax, write
from daemon.network import caller_of, serve
from daemon.status import PENDING, SUCCESS, Outcome

AXES = np.eye(DIM, dtype=np.float32)
ANSWERS = 1500                                      # several writes


class Counting(QueryingAssociation):
    """Answers any C-FIND with numbered studies."""

    def _serve_request(self, msg, context_id):
        exchange = Exchange(self, msg, context_id, Syntax(), caller_of(self), frozenset())
        uids = (f"1.2.{number}" for number in range(ANSWERS))
        answers = (write({0x0020000D: {"vr": "UI", "Value": [uid]}}, Syntax()) for uid in uids)
        exchange.send_found(PENDING, answers, Outcome(SUCCESS))


def asked(association):
    request = Dataset()
    request.QueryRetrieveLevel, request.StudyInstanceUID = "STUDY", ""
    found = list(association.send_c_find(request, FIND))
    association.release()
    assert [status.Status for status, _ in found] == [0xFF00] * ANSWERS + [0x0000]
    return [answer.StudyInstanceUID for _, answer in found[:-1]]


def served(tls=None):
    ae = AE()
    ae.add_supported_context(FIND)
    return serve(
        ae, SimilarSection(port=0), [], peers=(PeerSection(ae_title="*"),), tls=tls, required_right="query",
        association_class=Counting,
    )  # fmt: skip


def called(server, maximum_length=16382, tls_args=None):
    scu = AE(ae_title="TESTSCU")
    scu.maximum_pdu_size = maximum_length
    scu.add_requested_context(FIND)
    association = scu.associate("127.0.0.1", server.port, ae_title="CXRSIMILAR", tls_args=tls_args)
    assert association.is_established
    return association


@pytest.mark.parametrize("maximum_length", [0, 64, 16382])
def test_answers_of_several_writes_arrive_in_order_whatever_pdu_length_the_peer_takes(maximum_length):
    server = served()
    try:
        assert asked(called(server, maximum_length)) == [f"1.2.{number}" for number in range(ANSWERS)]
    finally:
        server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_answers_of_several_writes_arrive_in_order_over_tls(tmp_path):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=127.0.0.1"], check=True, capture_output=True,
    )  # fmt: skip
    server = served(TlsSection(certificate=certificate, key=key, require_client_certificate=False))
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    try:
        assert asked(called(server, tls_args=(context, None))) == [f"1.2.{number}" for number in range(ANSWERS)]
    finally:
        server.shutdown()


def test_a_request_in_many_fragments_is_put_together(running, monkeypatch):
    finder = running(
        lambda archive: archive.commit(*(archive.image(f"1.{n}", vector=AXES[0] + n * AXES[1]) for n in range(1, 4)))
    )
    scu = AE(ae_title="TESTSCU")
    scu.add_requested_context(FIND)
    association = scu.associate("127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR")
    monkeypatch.setattr(DIMSEServiceProvider, "maximum_pdu_size", 20)   # both sides cut their messages to this
    request = Dataset()
    request.QueryRetrieveLevel, request.StudyInstanceUID = "STUDY", ""
    private.add(request, "QueryUID", "1.1")
    found = list(association.send_c_find(request, FIND))
    association.release()
    assert [answer.StudyInstanceUID for _, answer in found[:-1]] == ["1.2", "1.3"]


def test_a_command_inside_an_identifier_ends_the_association(running):
    finder = running()
    scu = AE(ae_title="TESTSCU")
    scu.add_requested_context(FIND)
    association = scu.associate("127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR")
    context_id = association.accepted_contexts[0].context_id
    body = b"".join(
        bytes((0, 0, number & 0xFF, number >> 8)) + len(value).to_bytes(4, "little") + value
        for number, value in ((0x0002, FIND.encode()), (0x0100, b"\x20\0"), (0x0110, b"\1\0"), (0x0800, b"\1\0"))
    )
    command = bytes((0, 0, 0, 0, 4, 0, 0, 0)) + len(body).to_bytes(4, "little") + body
    pdv = (len(command) + 2).to_bytes(4, "big") + bytes((context_id, 3)) + command
    association.dul.socket.socket.sendall(2 * (b"\4\0" + len(pdv).to_bytes(4, "big") + pdv))
    association.join(30)
    assert association.is_aborted
