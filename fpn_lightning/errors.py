"""The one exception for input that a person has to mend.

Everything that reads files, ids or settings from outside raises :class:`InputError` with a message that
names the file, the image or annotation id, or the configuration key, and says what to do about it.
"""


class InputError(ValueError):
    """Input from outside (file, id, setting) that cannot be used; the message says which and what to do."""
