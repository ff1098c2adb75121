"""Words, numbers and codes that texts and questions are made of.

No word stands within another one, so that a word that is found in an answer is that word.
"""

import uuid

N_NUMBERS, N_UUIDS = 9 * 10**6, 2**122  # different values that numbers() and uuids() can give

ADJECTIVES = """
amber ancient arctic autumn azure basic bitter bold brave brief bright brisk bronze busy calm careful charming cheap chilly
classic clean clever cloudy coastal copper coral cosmic cozy crimson crisp curious damp daring dark decent deep dense
distant dizzy double dusty eager early eastern elastic electric elegant empty endless exact faded faint fancy fearless
fierce fiscal flat fluffy fluid foggy formal fragile frank frosty frozen gentle giant gifted glad gloomy golden graceful
grand grateful green grumpy handy happy hasty heavy hidden hollow honest humble hungry ideal idle indigo inner ivory jagged
jolly joyful keen kind large latent lavish lazy lively local lofty lonely loyal lucky lunar magenta marble mellow mighty
mild minor misty modest mossy muddy neat nimble noble northern novel oaken odd olive orange outer pale patient peaceful
plain polite portable proud pure purple quick quiet rapid rare ready remote rigid robust rosy rough round royal rural rusty
salty sandy scarlet secret serene shallow sharp shiny silent silver simple sleepy slim smooth snowy social soft solar solid
southern sparse spicy steady steep sticky stout strange strict stubborn subtle sudden sunny sweet swift tender thick thin
tidy timid tiny tough tropical turbid urban useful velvet violet vivid warm wary western wicked wide wild wise witty wooden
woolen yellow young zealous
""".split()

NOUNS = """
acorn anchor antler apple apron arrow aspen atlas badger bagel bakery balcony bamboo banjo barley basil basket beacon beaver
bicycle biscuit blanket blossom bottle boulder bracelet branch bridge bronco broom bucket butter button cabbage cabin cactus
camera candle canoe canyon carpet carrot castle cedar cello cherry chimney cinema circus cliff clover cobra coconut comet
compass condor cottage cotton coyote cradle crater cricket crystal curtain cushion cypress dagger daisy desert diamond
dolphin donkey dragon drawer dresser drum eagle easel elbow ember engine falcon farmer feather fender ferry fiddle finch
flagon flute forest fossil fountain fox galaxy garden garlic gazelle geyser ginger giraffe glacier glove goblet gopher
granite grape guitar hammer hamster harbor harvest hazel hedge helmet heron hickory honey horizon hornet iceberg igloo
insect island jacket jaguar jasmine jigsaw jungle kayak kettle kitchen kitten koala ladder lagoon lantern lemon leopard
lettuce library lily lizard lobster locket magnet mango maple market meadow melon meteor mirror mitten monkey mountain
mushroom mustard napkin needle nutmeg oasis octopus onion orchard orchid ostrich otter oyster paddle palace panda panther
paper parrot parsley peach peanut pebble pelican pencil penguin pepper piano pigeon pillow pirate planet plum pocket poppy
potato prairie puddle puffin pumpkin puppet puzzle python quartz quilt rabbit raccoon radish raven ribbon river rocket
saddle sailor salmon sapphire saucer scarf school scooter seagull shelter shovel shrimp spider spinach spruce squirrel
stable statue stream summit sunset teapot temple thistle thunder tiger timber tomato tornado tractor trumpet tulip tunnel
turnip turtle umbrella valley vessel village vine violin volcano wagon walnut walrus water whistle willow window winter
wizard yogurt zebra zipper
""".split()

VERBS = """
accept adjust admire advise agree announce answer applaud argue arrange arrive assist attend avoid balance begin believe
belong borrow bounce breathe broaden bundle calculate carve celebrate chase choose climb collect combine compare confirm
connect consider convince cough create damage decide declare decorate defend deliver describe destroy develop discover
divide donate embrace employ enjoy escape examine exchange explore fasten finish follow forgive gather glance govern grumble
guess hesitate hurry imagine improve inform inspect intend invite juggle knock laugh learn listen manage measure mention
migrate murmur narrate notice obey observe obtain offer operate pause perform persuade polish ponder prepare pretend prevent
produce promise protect provide punish pursue realize receive recover reduce refuse remain remind repair repeat replace
require rescue resolve retreat return reveal reward sacrifice scatter scream search select settle shiver shrug sketch sneeze
squeeze stumble suggest supply surprise swallow tackle tremble unpack vanish visit wander wash whisper wonder worry wrestle
yawn
""".split()


def pairs(rng, n: int) -> list:
    """n different keys, each an adjective and a noun such as "amber-otter".

    Raises:
        ValueError: n is more than the keys that there are.
    """
    n_all = len(ADJECTIVES) * len(NOUNS)
    if n > n_all:
        raise ValueError(f"{n:,} keys are wanted, and {n_all:,} can be made")
    return [f"{ADJECTIVES[i % len(ADJECTIVES)]}-{NOUNS[i // len(ADJECTIVES)]}" for i in rng.permutation(n_all)[:n].tolist()]


def numbers(rng, n: int) -> list:
    """n different numbers of seven digits, as text."""
    out = {}
    while len(out) < n:
        out.update(dict.fromkeys(rng.integers(10**6, 10**7, n - len(out)).tolist()))
    return [str(number) for number in out]


def uuids(rng, n: int) -> list:
    """n random UUIDs of version 4, as text."""
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]


def letters(rng, n: int, length: int, alphabet: str) -> list:
    """n different words of random letters."""
    out = {}
    while len(out) < n:
        out["".join(alphabet[i] for i in rng.integers(0, len(alphabet), length).tolist())] = None
    return list(out)
