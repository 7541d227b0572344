"""What the listeners ask for."""

TINY = (
    "Yes.",
    "No, thank you.",
    "Of course.",
    "One moment, please.",
    "Good morning.",
)
"""About a second each."""
SHORT = (
    "Yes, of course.",
    "Your table is ready.",
    "The next train leaves at nine.",
)
MEDIUM = (
    "Thank you for calling. I have found your order, and it should be with you on Thursday afternoon.",
    "Turn left at the bakery, walk past the old school, and you will see the library on your right.",
    "The museum opens at ten. Tickets are sold at the door, and children under twelve come in free.",
)
LONG = (
    "When the rain stopped, the whole street came out to look at the river. It had risen by more than a metre in the "
    "night, and the little wooden bridge was gone. Nobody was hurt. The baker had carried his flour upstairs in time, "
    "and the schoolteacher was already asking who could lend her a boat for the week.",
    "Bread needs four things: flour, water, salt and time. Mix the first three until no dry flour is left, and cover "
    "the bowl. Leave it for an hour, fold it, and leave it again. By the evening it will have doubled. Shape it, let "
    "it rest once more, and bake it in the hottest oven you have until the crust sounds hollow.",
)
TEXTS = SHORT + MEDIUM + LONG
BY_LENGTH = {"tiny": TINY, "short": SHORT, "medium": MEDIUM, "long": LONG, "mixed": TEXTS}
