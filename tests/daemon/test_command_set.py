"""Command sets as pynetdicom writes them."""

import pytest
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_FIND_RSP
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.dsutils import encode

from daemon.command_set import FindRequest, find_response

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def as_pynetdicom_does(request, status, comment, offending, with_data_set):
    """Return the command set of a C-FIND-RSP."""
    response, message = C_FIND(), C_FIND_RSP()
    response.MessageIDBeingRespondedTo, response.AffectedSOPClassUID = request.message_id, UID(request.sop_class_uid)
    response.Status = status
    if comment:
        response.ErrorComment = comment
    if offending:
        response.OffendingElement = list(offending)
    message.primitive_to_message(response)
    message.command_set.CommandDataSetType = 0x0000 if with_data_set else 0x0101
    message.command_set.CommandGroupLength = 0
    length = len(encode(message.command_set, True, True)) - 12
    message.command_set.CommandGroupLength = length
    return encode(message.command_set, True, True)


@pytest.mark.parametrize(
    ("status", "comment", "offending", "with_data_set"),
    [(0xFF00, "", (), True), (0xFF01, "", (), True), (0x0000, "", (), False), (0xFE00, "", (), False),
     (0xA900, "QueryUID is no UID", (0x00991001,), False), (0xA900, "odd", (0x00080052, 0x0020000D), False)],
)
def test_a_find_response_is_that_of_pynetdicom_and_answers_the_request_that_was_asked(
    status, comment, offending, with_data_set
):
    for message_id in (1, 65535, 7, 1):
        for sop_class_uid in (FIND, "1.2.840.10008.5.1.4.1.2.1.1"):
            request = FindRequest(message_id, sop_class_uid)
            encoded = find_response(request, status, comment, offending, with_data_set=with_data_set)
            assert encoded == as_pynetdicom_does(request, status, comment, offending, with_data_set)
