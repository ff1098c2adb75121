"""Small talk that fills long conversations: questions of a user and replies of an assistant."""

_TALK = """
How do I keep bread fresh for longer?

Store it in a paper bag or a bread box at room temperature, cut side down. The fridge makes it go stale faster, but slices
freeze well and can be toasted straight away.

Why is the sky darker on high mountains?

There is less air above you to scatter sunlight. With fewer molecules in the way, more of the blackness of space shows through.

What should I look for when I buy a used bicycle?

Check the frame for cracks near the joints, spin both wheels to see whether they run true, and try every gear. Worn chains and
brake pads are cheap to replace, a bent fork is not.

Can you explain what a sonnet is?

It is a poem of fourteen lines with a fixed pattern of rhymes. Many of them turn in the middle: the first part raises a
question, the second one answers it.

How often should house plants be watered?

It depends on the plant and the light, so feel the soil instead of following a calendar. Most of them like to dry out a little
between two waterings.

What makes a good campfire?

Dry wood in three sizes: tinder that catches at once, thin sticks, and then logs. Leave room for air between them and light it
from the side where the wind comes from.

Why do cats purr?

Usually because they are at ease, but they also purr when they are hurt or afraid. It seems to calm them, and perhaps it helps
them to heal.

How can I learn to type faster?

Use all fingers and do not look at the keys, even if that is slower at first. Fifteen minutes a day are worth more than two
hours on a weekend.

What is the difference between a lake and a pond?

There is no strict rule. A pond is usually shallow enough for light to reach the bottom everywhere, so that plants can grow all
over it.

How do noise-cancelling headphones work?

They have small microphones that listen to what is around you. The headphones then play the opposite wave, and the two of them
cancel out.

Is it better to run in the morning or in the evening?

Whichever you will keep doing. The body is warmer and a bit stronger late in the day, but a morning run is harder to put off.

How is glass made?

Sand is melted together with soda and lime at a great heat, and shaped while it is soft. It has to cool slowly, or it cracks.

What can I cook with leftover rice?

Fry it with an egg, some peas and soy sauce. Cold rice is better for this than fresh rice, since its grains do not stick
together.

Why do leaves change their colour?

When days get short, trees stop making the green pigment and take back what is useful in it. The yellow that was there all
along comes to light, and some trees add red.

How do I fold a fitted sheet?

Put your hands into two corners, tuck one corner into the other, and do the same on the far side. Then lay it flat and fold it
into thirds.

What is a leap second?

It is a second that was sometimes added to clocks, because the rotation of the earth is a little uneven. There are plans to give
up on the practice.

How do I remove a stripped screw?

Press a wide rubber band between the driver and the screw and turn slowly. If that does not grip, cut a new slot into its head.

What did people use before there were erasers?

They rubbed pencil marks off with soft bread. Ink was scraped from parchment with a knife.

Why does coffee taste bitter?

Some of its compounds are bitter by nature, and dark roasting makes more of them. Water that is too hot, or a grind that is too
fine, brings out even more.

How do whales sleep?

Half of the brain rests while the other half remembers to breathe. Some species float upright for a few minutes, quite still.

What is the best way to store photographs?

Keep prints dry, dark and cool, in albums that are free of acid. For files, have two copies in different places and look at them
now and then.

How does a sundial tell the time?

Its pointer is parallel to the axis of the earth, so its shadow moves evenly over the dial. You have to correct for your
longitude and for the date.

Why do onions make us cry?

Cutting them sets free a gas that turns into a weak acid on the eye. A sharp knife and a cold onion help.

What is the point of a keel on a boat?

It keeps the boat from sliding sideways and from tipping over. Its weight is far below the water, which pulls the mast upright.

How do I start a vegetable bed?

Pick the sunniest place that you have, loosen the ground and work in some compost. Beans and lettuce forgive most mistakes.

Why is it hard to tickle yourself?

The brain predicts what your own movements will feel like and turns the feeling down. Surprise is most of what tickling is.

How do magnets lose their force?

Heat and hard knocks shake the small regions inside out of line. Enough heat wipes out the magnetism altogether.

What should be in a first aid kit?

Plasters, sterile pads, bandages, tape, scissors, gloves and something for wounds. Look at the dates once a year and replace
what is old.

How are tunnels dug under a river?

Often with a machine that has a turning shield in front and puts up the lining behind it. In soft ground the pressure in front
is kept high so that no water comes in.

Why do some birds fly in the shape of a V?

Each one rides on the rising air at the wing tip of the one ahead. They take turns at the front, where the work is hardest.

How can I fall asleep more easily?

Get up at the same hour every day, and keep the room cool and dark. If you lie awake for long, get up and do something dull.

What makes a violin sound warm?

The shape of the body, the wood and the varnish all have a say, but the player has the most. Bowing further from the bridge
softens the tone.

How did sailors find their way at night?

They measured how high known stars stood above the horizon. The pole star alone tells how far north you are.

Why do old books smell so good?

Paper slowly breaks down and gives off a mixture of gases, some of which are related to vanilla. Glue and leather do the rest.

How do I choose a melon?

Take one that is heavy for its size and sounds deep when you knock. The end opposite the stem should give way a little.

What is the use of a second monitor?

You can read in one place and write in another without switching. Many people find that they make fewer mistakes that way.

Why does ice float?

Water spreads out when it freezes, since its molecules lock into an open lattice. Ice is therefore lighter than the water that
it floats on.

How do I stop a door from squeaking?

Lift out the pin of the hinge, wipe it clean and rub it with wax or a drop of oil. Swing the door a few times to spread it.

What do bees do in winter?

They form a ball around their queen and shiver to keep warm. They eat what they stored, and wait.

How do I write a good summary?

Say what the whole thing is about in one sentence, then give the two or three points that carry it. Leave out examples.

Why are manhole covers round?

A round lid cannot fall into its own hole, however you turn it. It can also be rolled, and needs no lining up.

What is a good way to learn the names of trees?

Start with five that grow on your street and watch them for a year. Bark and buds tell you more than leaves once it is cold.

How does a thermos keep soup hot?

It has two walls with nothing between them, so that little heat is carried away. A shiny coating sends back what would radiate.

Why do we yawn when others do?

Nobody is quite sure. It seems to go along with empathy, and it happens more often among people who are close.

How do I get wax out of a tablecloth?

Let it harden and scrape off what you can. Then put paper on both sides and press it with a warm iron, so that the paper takes
up the rest.

What is sourdough?

It is dough that rises by wild yeast and bacteria, which you keep alive from one loaf to the next. The bacteria make it sour.

Why do planes leave white lines in the sky?

The exhaust is moist and hot, and the air up there is very cold. The moisture freezes into tiny crystals that we see as a line.

How do I sharpen a kitchen knife?

Draw it over a wet stone at a low angle, first one side and then the other, until a burr can be felt. A finer stone takes the
burr away.
"""

_PARTS = [" ".join(part.split()) for part in _TALK.strip().split("\n\n")]

#: (question, reply)
TALK = tuple(zip(_PARTS[::2], _PARTS[1::2]))

#: replies to a user who tells something
NOTED = (
    "Thank you for telling me.",
    "That is good to know.",
    "All right, I will keep it in mind.",
    "I see, thanks.",
    "Understood.",
    "Good, I have taken note of it.",
)

#: further questions, none of which is in TALK
QUESTIONS = (
    "What is a bridge for?",
    "Why do people wear hats?",
    "What does a baker do?",
    "What is a map good for?",
    "Why do we brush our teeth?",
    "What is a library?",
    "What do fish eat?",
    "Why is salt put on food?",
    "What is a bicycle pump for?",
    "What does a doctor do?",
    "Why do houses have roofs?",
    "What is a calendar good for?",
    "What is a candle made of?",
    "Why do dogs bark?",
    "What is rain?",
    "What does a farmer do?",
)

#: what users say that needs nothing of what was said long ago
GO_ON = (
    "Go on.",
    "Continue.",
    "Please continue where you stopped.",
    "Thanks!",
    "Thank you, that helps.",
    "OK.",
    "Yes, please.",
    "No, leave it.",
    "Hello!",
    "Good morning.",
    "Tell me more.",
    "And then?",
    "Why?",
    "Why is that so?",
    "How do you know?",
    "Are you sure?",
    "Really?",
    "I do not understand.",
    "What do you mean?",
    "What do you think?",
    "Say that again, please.",
    "Can you say it in simpler words?",
    "Make it shorter.",
    "Make it longer.",
    "Give me an example.",
    "Give me three examples.",
    "Summarize the text above.",
    "Give me a summary of our conversation.",
    "What is this text about?",
    "What are the main points?",
    "What did we talk about?",
    "List the most important facts.",
    "Write it as a list.",
    "Translate your last reply into French.",
    "Correct the spelling of your last reply.",
    "Tell me a joke.",
    "Write a short poem about spring.",
    "Write a story of three sentences.",
    "Let us talk about something else.",
    "That is wrong, try again.",
    "That is interesting.",
    "I like that.",
    "Never mind.",
    "Who are you?",
    "What can you do?",
    "How are you today?",
    "Good night.",
    "Bye.",
)


def small_talk(rng, n: int) -> list:
    """n pairs (question, reply) in random order; none comes twice before all of TALK have come."""
    order = []
    while len(order) < n:
        order += rng.permutation(len(TALK)).tolist()
    return [TALK[i] for i in order[:n]]
