"""Who we say we are in every association we open or accept, and in the files we write (PS3.7 D.3.3.2)."""

#: Our own root (made from a random UUID, PS3.5 B.2), and the name of this software.
IMPLEMENTATION_CLASS_UID = "2.25.299912351124446414177075146931527732082"
IMPLEMENTATION_VERSION_NAME = "CXRFIND_01"
_MAXIMUM_UID_LENGTH = 256
