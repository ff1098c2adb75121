"""What was said in a conversation, by whom, and at which positions it stands."""

from dataclasses import asdict, dataclass, field


def start(text: str, n_most: int = 60) -> str:
    """The first characters of a text, in one line."""
    text = " ".join(text.split())
    return text[:n_most].rstrip() + "..." if len(text) > n_most else text


@dataclass
class Message:
    """One message. Positions are those of the tokens."""

    who: str  #: "you" or "the model"
    header: int  #: where the template's text before it begins
    content: int  #: where its own text begins
    #: [[position, text]] of its parts, ascending: files that were read and then the question, or the reply
    parts: list = field(default_factory=list)
    end: str = ""  #: why a reply ended, as Turn.end
    has_marker: bool = False  #: the reply ended with the template's `stop` as text, which is in the cache

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)


class Messages(list):
    """The messages of one conversation, the oldest first."""

    @property
    def n_replies(self) -> int:
        """How many turns the user has ended: each has a message of the model, which may be empty."""
        return sum(message.who == "the model" for message in self)

    def add(self, who: str, header: int, content: int) -> None:
        """A message begins; see Message."""
        self.append(Message(who, header, content))

    def shift(self, first: int, n: int) -> None:
        """What stands at position `first` or behind it moves by n positions."""
        for message in self:
            if message.header >= first:
                message.header += n
            if message.content >= first:
                message.content += n
            message.parts = [[at + n if at >= first else at, text] for at, text in message.parts]

    def rewind(self, n: int) -> None:
        """Forget what stands at position n or behind it."""
        self[:] = [message for message in self if message.header < n]
        for message in self:
            message.parts = [part for part in message.parts if part[0] < n]

    def last(self, who: str) -> Message | None:
        """The last message of one side; None where there is none."""
        return next((message for message in reversed(self) if message.who == who), None)

    def saved(self) -> list:
        """As values for JSON."""
        return [asdict(message) for message in self]

    @classmethod
    def restored(cls, saved: list, n_tokens: int) -> "Messages":
        """From what saved() gave, of a conversation of n_tokens tokens.

        Raises:
            TypeError, ValueError: it is not that.
        """
        found = cls(Message(**one) for one in saved)
        for one in found:
            places = [one.header, one.content, *(at for at, _ in one.parts)]
            is_text = all(isinstance(text, str) for text in (one.end, *(text for _, text in one.parts)))
            if one.who not in ("you", "the model") or not is_text or places != sorted(places) or not 0 <= places[0] <= n_tokens:
                raise ValueError("a message is damaged")
        return found
