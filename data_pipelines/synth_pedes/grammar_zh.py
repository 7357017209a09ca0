"""Chinese wording of caption plans."""

from __future__ import annotations

import itertools
import random

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.caption_plan import Plan

_PERSON = {
    "man": ("男子", "男人", "男士", "男性"),
    "woman": ("女子", "女人", "女士", "女性"),
}
_PRONOUN = {"man": "他", "woman": "她"}
_COLOUR = {
    "black": ("黑色",), "white": ("白色",), "grey": ("灰色",), "red": ("红色",),
    "orange": ("橙色", "橘色"), "yellow": ("黄色",), "green": ("绿色",), "blue": ("蓝色",),
    "dark_blue": ("深蓝色", "藏青色"), "purple": ("紫色",), "pink": ("粉色", "粉红色"),
    "brown": ("棕色", "褐色"), "beige": ("米色", "米黄色"),
}  # fmt: skip
_HAIR_COLOUR = {"black": "黑", "brown": "棕", "blond": "金", "grey": "灰白", "red": "红"}
_NOUN = {
    "t_shirt": ("T恤", "T恤衫"), "shirt": ("衬衫", "衬衣"), "sweater": ("毛衣", "针织衫"),
    "hoodie": ("连帽卫衣", "带帽卫衣"), "jacket": ("夹克", "外套"), "coat": ("大衣", "长外套"),
    "down_jacket": ("羽绒服", "棉服"), "blazer": ("西装外套", "西装"),
    "tank_top": ("背心", "无袖上衣"), "dress": ("连衣裙", "裙子"), "jeans": ("牛仔裤",),
    "trousers": ("长裤", "裤子"), "shorts": ("短裤",), "skirt": ("半身裙", "裙子"),
    "leggings": ("紧身裤", "打底裤"), "sweatpants": ("运动裤",), "sneakers": ("运动鞋", "球鞋"),
    "boots": ("靴子",), "sandals": ("凉鞋",), "high_heels": ("高跟鞋",),
    "leather_shoes": ("皮鞋",), "backpack": ("双肩包", "背包"),
    "shoulder_bag": ("单肩包", "斜挎包"),
    "handbag": ("手提包", "手袋"), "shopping_bag": ("购物袋", "手提袋"),
    "suitcase": ("行李箱", "拉杆箱"), "cap": ("鸭舌帽", "棒球帽"), "beanie": ("毛线帽", "针织帽"),
    "sun_hat": ("遮阳帽", "宽檐帽"), "glasses": ("眼镜",), "sunglasses": ("墨镜", "太阳镜"),
    "scarf": ("围巾",),
}  # fmt: skip
_HELD = {
    "phone": ("一部手机",), "umbrella": ("一把雨伞", "一把收起的伞"), "cup": ("一杯咖啡",),
    "book": ("一本书",), "bottle": ("一瓶水", "一个水瓶"),
}  # fmt: skip
_CARRY = {"backpack": "背着", "shoulder_bag": "挎着", "handbag": "提着", "shopping_bag": "提着",
          "suitcase": "拉着"}  # fmt: skip
_MOTION = {
    "front": ("正面朝镜头走来", "面向镜头"), "back": ("背对镜头", "背对镜头向前走"),
    "left": ("正向左走", "侧对镜头"), "right": ("正向右走", "侧对镜头"),
}  # fmt: skip
# What is worn on the body and feet takes 穿, accessories take 戴 or 围.
_VERB = {"top": "穿", "bottom": "穿", "shoes": "穿", "hat": "戴", "glasses": "戴", "scarf": "围"}
_MEASURE = {"top": "一件", "bottom": "一条", "shoes": "一双", "hat": "一顶", "glasses": "一副",
            "scarf": "一条"}  # fmt: skip


def word(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """The plan as Chinese text."""
    build = ""
    if "build" in plan.details:
        build = "身材苗条的" if identity.build == "slim" else "身材较胖的"
    person = rng.choice(_PERSON[identity.gender])
    subject = f"{rng.choice(('这名', '一位', '这位', '一名'))}{build}{person}"
    pronoun = _PRONOUN[identity.gender]
    hair = _hair(identity, rng) if plan.hair else ""
    worn, carried = _worn(identity, plan, rng), _carried(identity, plan, rng)
    motion = rng.choice(_MOTION[plan.motion]) if plan.motion else ""
    if plan.style == 0:
        sentences = [_clauses(hair, worn, motion), carried]
    elif plan.style == 1:
        sentences = [_clauses(motion, hair, worn, carried)]
    elif plan.style == 2:
        sentences = [_clauses(worn, carried, motion), hair]
    else:
        sentences = [_clauses(motion, worn), _clauses(hair, carried)]
    first, *rest = (s for s in sentences if s)
    return "".join((f"{subject}{first}。", *(f"{pronoun}{s}。" for s in rest)))


def _clauses(*parts: str) -> str:
    return "，".join(part for part in parts if part)


def _worn(identity: Identity, plan: Plan, rng: random.Random) -> str:
    """Neighbouring things with the same verb share it: 穿着白色T恤、蓝色牛仔裤和黑色运动鞋."""
    clauses = []
    for verb, group in itertools.groupby(plan.wear, _VERB.__getitem__):
        topics = list(group)
        things = [_thing(identity, plan, topic, rng) for topic in topics]
        listed = things[0] if len(things) == 1 else f"{'、'.join(things[:-1])}和{things[-1]}"
        if verb == "穿" and "shoes" not in topics and rng.random() < 0.5:
            clauses.append("身穿" + listed)
        else:
            clauses.append(f"{verb}着{listed}")
    return "，".join(clauses)


def _thing(identity: Identity, plan: Plan, topic: str, rng: random.Random) -> str:
    noun = rng.choice(_NOUN[getattr(identity, topic)])
    if topic == "glasses":
        return _MEASURE[topic] + noun
    colour = _colour(identity, topic, rng)
    phrase = f"{colour}{noun}" if topic != "top" else _top(identity, plan, colour, noun, rng)
    if rng.random() < 0.4:
        return phrase
    return ("一条" if (topic, identity.top) == ("top", "dress") else _MEASURE[topic]) + phrase


def _top(identity: Identity, plan: Plan, colour: str, noun: str, rng: random.Random) -> str:
    phrase = colour + noun
    if "sleeves" in plan.details:
        sleeves = {"none": "无袖", "short": "短袖", "long": "长袖"}[identity.sleeves]
        noun = sleeves + noun
        phrase = colour + noun
    if "pattern" in plan.details:
        second = _colour(identity, "pattern", rng)
        both = f"{colour}和{second}"
        if len(both) == 5:  # one character each: 红白
            both = colour[0] + second[0]
        phrase = {
            "striped": f"{both}相间的条纹{noun}",
            "checked": f"{both}相间的格子{noun}",
            "dotted": f"带有{second}圆点的{colour}{noun}",
            "print": f"{rng.choice(('印有', '胸前印有'))}{second}图案的{colour}{noun}",
        }[identity.pattern]
    if "inner" in plan.details:
        phrase += f"（内搭{_colour(identity, 'inner', rng)}{rng.choice(('上衣', 'T恤', '衬衫'))}）"
    return phrase


def _hair(identity: Identity, rng: random.Random) -> str:
    colour = _HAIR_COLOUR[identity.hair_colour]
    return {
        "long": f"留着{colour}色长发",
        "shoulder": f"留着{colour}色齐肩发",
        "short": f"留着{colour}色短发",
        "curly": f"留着一头{colour}色卷发",
        "ponytail": f"扎着{colour}色马尾辫",
        "bun": f"{colour}色头发盘成丸子头",
        "bald": rng.choice(("是光头", "剃着光头")),
    }[identity.hair]


def _carried(identity: Identity, plan: Plan, rng: random.Random) -> str:
    parts = []
    for topic in plan.carry:
        if topic == "held":
            parts.append(
                f"{rng.choice(('手里拿着', '手持', '拿着'))}{rng.choice(_HELD[identity.held])}"
            )
        else:
            noun = rng.choice(_NOUN[identity.bag])
            parts.append(f"{_CARRY[identity.bag]}一个{_colour(identity, 'bag', rng)}{noun}")
    return "，".join(parts)


def _colour(identity: Identity, topic: str, rng: random.Random) -> str:
    return rng.choice(_COLOUR[getattr(identity, f"{topic}_colour")])
