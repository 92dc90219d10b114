#!/usr/bin/env python3
"""Writes templates.json: small templates of our own as transformers renders them.

    python3 tests/goldens/make_templates.py

Each tries a piece of the language. A template that Jinja2 refuses is recorded with its error; irori must refuse it too, in
its own words. One that only irori refuses is in REFUSED, and irori must say that it does not render it.
"""

import copy
import json
from datetime import datetime
from pathlib import Path

import jinja2
import transformers
from transformers.tokenization_utils_base import _normalize_chat_messages
from transformers.utils import chat_template_utils

HERE = Path(__file__).resolve().parent


class Clock(datetime):
    """The time that the Rust test has, too."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 5, 14, 3, 9, 42000)


chat_template_utils.datetime = Clock

TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "一 <b>"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "二"},
]
DATA = {
    "n": 7, "f": 2.5, "t": True, "s": "Hello, 世界", "e": "", "nothing": None, "list": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "d": {"z": 1, "a": {"b": [10, 20]}, "items": "mine", "keys": 5}, "people": [
        {"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "ann", "age": 25, "tags": []}, {"name": "Cy", "age": 30}],
    "big": 2**62, "pair": [[1, "a"], [2, "b"]], "text": "  two\n words \t", "multi": "l1\nl2\r\nl3\n\nl5", "mixed": [1, "1", None, True, 2.0],
    "floats": [1.0, 0.1, 1e16, 1e15, 1e-5, 0.0001, -0.0, 123456789.123, 5e-324, 1.7976931348623157e308],
    "tricky": ["it's", "say \"x\"", "both ' and \"", "tab\t\n\\", "\x07\x7f\u00a0\u200b😀é", "\ue000\u3000"],
}

# Expressions, each printed.
EXPRESSIONS = """
1 + 2 * 3 - 4 | n % 4 | -7 // 2 | 7 // -2 | -7 % 3 | 7 % -3 | 7.5 // 2 | -7.5 % 2 | 2 ** 3 ** 2 | -2 ** 2 | 2 ** -1 | 2 ** 0.5 | 7 / 2 | 6 / 2
1e3 | 1.0 | 1_000 | 0x1F | 0b101 | 0o17 | 1e16 | 1.5e-7 | 123456789012345678901234567890 | 10 ** 20 | 0.1 + 0.2 | 1e308 * 10 | true + 1 | -true | +true
not true | not e | t and e | e or s | n or x | none | true | false | [] | {} | () | (1,) | (1, 2) | [1, "a", none, true, 2.0] | {"a": 1, 2: "b", none: [1]} | {"a": 1, "a": 2}
n == 7 | n == 7.0 | true == 1 | "1" == 1 | none == false | [1] == [1.0] | (1,) == [1] | {"a": 1} == {"a": 1.0} | x == y | x == none | x != x
1 < n < 10 | 1 < n > 10 | 1 < 2 < 3 < 4 | 3 > 2 == 2 | 1 == 1.0 == true | "a" < "b" | "é" < "z" | [1, 2] < [1, 3] | (1,) < (1, 0) | 1 < "a" | none < 1 | {} < {} | "b" > none
"a" in "abc" | "" in "" | 1 in [1, 2] | 1 in "abc" | "z" in d | "q" not in d | 2 in [1.0, 2.0] | "a" in x | 1 in 5 | [] in {} | none in [none] | not 1 in [1] | "A" is in words | 3 in range(5) | 'a' in d.keys()
"a" ~ 1 ~ none ~ true ~ 2.0 ~ [1, 'x'] ~ x | 1 ~ 2 + 3 | "a" + "b" | "a" + 1 | 1 + "a" | [1] + [2] | (1,) + (2,) | [1] + (2,) | "ab" * 3 | 3 * "ab" | [0] * 2 | "a" * -1 | none + none | "a" - "b" | d + d
s[0] | s[-1] | s[7:] | s[:-3] | s[::-1] | s[::2] | s[100] | s[100:] | list[-1] | list[5] | list[1:] | list[::-1] | list[::0] | (1, 2, 3)[-2:] | s[-3:-1] | list["x"] | list[true] | list[1.0] | "abc"[none:2] | s[8:1:-2]
d.z | d["z"] | d.a.b[1] | d.a.b.1 | d.q | d["q"] | d.q.r | d.items | d["items"] | d.keys | d.get("z") | d.get("q") | d.get("q", 1) | d["get"]("z") | d.values | d.a.items() | d[none] | d[[]] | n.x | none.x | x.y | x["y"] | x[0] | "s".q
d.a.keys() | d.values() | d.a.items() | d.items() | d.keys() | d.pop("z") | d.update({}) | list.append(1) | list.count(1) | list.index(2) | list.index(9) | d.copy() | (1, 2, 1).count(1) | [].pop | d.__class__ | s.__len__ | d.setdefault
n if t | n if e else s | n if e | (n if e) is defined | (n if e).x | "a" if t else "b" if t else "c" | 1 if none else 2 if false else 3 | x if x else "none"
x | x.y is defined | d.q is defined | x is undefined | x ~ "" | x + 1 | x | x|length | x|upper | -x | x() | x is none | x is iterable | x is sequence | x is mapping | x is string | "%s" % x | x|default("D") | x|d(1, true) | e|d("D") | e|default("D", true) | none|d("D")
range(3) | range(1, 10, 3) | range(5)|list | range(3, 0, -1)|list | range(0)|list | range(3)[1] | range(3)[-1] | range(10)[2:5] | range(1000000) | range("a") | range(1, 2, 0) | range(3)|length
dict(a=1, b=2) | dict([("a", 1)]) | dict(d.a, c=3) | dict([1]) | namespace(a=1).a | namespace(a=1) | namespace({"a": 1}, b=2).b | namespace(_a=1) | dict.fromkeys(["a", "b"], 0) | range | dict | lipsum(1)
"a" "b" 'c' | "\\n\\t\\x41\\u3042\\U0001f600\\101\\'" | 'a\\qb' | "a\\\\b" | "\\u12" | 'line\\
continued' | "tab	in" | "{{ }}" | '%}' | "#}"
[1, 2,] | {"a": 1,} | (1,)[0] | [[1, [2]], {"a": [()]}] | {"a": {"b": none}}.a.b | {1: "a"}[1] | {1: "a"}[1.0] | {true: "a"}[1] | {(1, 2): 3}[(1, 2)] | {[]: 1} | [1, 2][0] + 1 | (1 + 2) * 3 | "abc"|length + 1 | -1|abs | -(1)|abs | 2 + -1|abs | -n|string
floats | tricky | mixed | big | big * 4 | f | -f | 1.0 * 3 | f ~ "" | [f, n] | 3.0 | 1e5 | 1e21 | 1e100 | 100000000000000000000.0 | 1.5e300 * 1e300 | 2.50 | 0.1 * 3
"%s and %r" % (1, "x") | "%d" % 3.7 | "%05.2f|%-6s|%+d|%x|%X|%o|%e|%g|%%" % (3.14159, "ab", 5, 255, 255, 8, 12345.678, 0.00001) | "%(a)s %(b)05d" % {"a": 1, "b": 2} | "%s" % (1, 2) | "%s %s" % 1 | "%d" % "a" | "%s" % [1, 2] | "%s" % none | "%5s|%-5s|%.2s" % ("ab", "ab", "abc") | "%c%c" % (65, "b") | "%q" % 1 | "%" % 1 | "%*d" % (5, 42) | "%s" % ((1, 2),) | "x" % 1 | "x" % [] | "x" % {} | "%i %u" % (1, 2) | "%#x" % 255 | "%05d" % -42 | "% d" % 5 | "%g %g %g" % (100000.0, 1e6, 1e-5) | "%.3g" % 1234.5 | "%.0f" % 2.5 | "%s%%" % 5
"{} {}".format(1, "a") | "{0}{1}{0}".format("a", "b") | "{a} {b[0]} {c.z}".format(a=1, b=[2], c=d) | "{:>5}|{:<5}|{:^5}|{:*^7}".format("a", "b", "c", "d") | "{:05d} {:,} {:.2f} {:x} {:#x} {:e} {:%}".format(42, 1234567, 3.14159, 255, 255, 1234.5, 0.25) | "{{}}".format() | "{}".format() | "{!r} {!s}".format("a", "b") | "{:{}}".format("a", 5) | "{x}".format(y=1) | "{} {0}".format(1) | "{:d}".format("a") | "{:5}|{:<5}|".format(1, 2) | "{:.3}".format("abcdef") | "{:+}".format(5) | "{:_}".format(1234567) | "{}".format(none) | "{a}".format_map({"a": 1}) | "{:>{w}}".format("x", w=4) | "{:g}".format(1.0) | "{}".format([1, "a"]) | "{:b}".format(5) | "{".format() | "}".format() | "{0.z}".format(d)
"""

# Filters and methods, each printed.
CALLS = """
s|upper | s|lower | "hello wORLD"|capitalize | "hello-world it's (a) x"|title | "straße ǆ"|upper | "ΑΣ"|lower | text|trim | "xxaxx"|trim("x") | " a "|trim|length | s|length | s|count | e|length | n|length | list|length | d|length
list|first | list|last | []|first | []|last | [] | first | s|first | s|last | d|first | list|sort | list|sort(reverse=true) | words|sort | words|sort(case_sensitive=true) | people|sort(attribute="age")|map(attribute="name")|join(",") | people|sort(attribute="age,name")|map(attribute="name")|join | mixed|sort | list|reverse|list | s|reverse | list|reverse | "abc"|sort | d|sort
list|join | list|join(", ") | words|join("-")|upper | people|join(", ", attribute="name") | mixed|join("|") | s|join("_") | x|join | n|join | list|sum | []|sum | people|sum(attribute="age") | [[1], [2]]|sum(start=[]) | words|sum | list|max | list|min | []|max | words|min | words|max(case_sensitive=true) | people|max(attribute="age") | [1, "a"]|max
people|map(attribute="name")|list | people|map(attribute="tags.0", default="-")|list | words|map("upper")|list | list|map("string")|join | list|map("nope")|list | list|map|list | words|map("replace", "a", "X")|list | people|map("length")|list | list|map("default", 5)|list | people|map(attribute="tags")|list | d|map("upper")|list | list|map(attribute="x")|list | list|map(attr="x")|list
people|selectattr("tags")|map(attribute="name")|list | people|selectattr("age", "equalto", 30)|list|length | people|selectattr("age", "gt", 25)|map(attribute="name")|list | people|rejectattr("tags", "defined")|list | list|select("odd")|list | list|reject("odd")|list | mixed|select|list | mixed|reject|list | list|select(">", 1)|list | list|select("nope")|list | people|selectattr("name", "in", ["Bo"])|list | people|selectattr()|list | mixed|select("string")|list | mixed|select("none")|list | list|select("divisibleby", 3)|first | people|selectattr("name")|first
people|groupby("age")|map(attribute=0)|list | people|groupby("age")|map("last")|map("length")|list | words|groupby(0)|length | words|unique|list | words|unique(case_sensitive=true)|list | [1, 1.0, true, "1"]|unique|list | people|unique(attribute="age")|map(attribute="name")|list | [[1]]|unique|list | list|batch(2)|list | list|batch(2, 0)|list | range(7)|slice(3)|list | range(7)|slice(3, "x")|list | []|batch(3)|list | (people|groupby("age"))[0].grouper | (people|groupby("age"))[1].list|length | people|groupby("age")|first
d|dictsort | d|dictsort(reverse=true) | {"b": 1, "A": 2}|dictsort | {"b": 1, "A": 2}|dictsort(true) | {"a": 2, "b": 1}|dictsort(by="value") | d|items|list | d.a|items|list | x|items|list | list|items | list|items|list | d.a|items | d|list | d|length | {"a": 1}|dictsort(by="x")
n|string | n|float | "3.7"|int | "x"|int | "x"|int(5) | "ff"|int(0, 16) | "0x1f"|int(base=0) | " 42 "|int | "1_0"|int | "3.7"|float | "x"|float | "1e3"|float | "inf"|float | 3.99|int | -3.99|int | none|int | none|int(1) | true|int | list|int | "0b11"|int(0, 2) | ""|int | "１２"|int | "nan"|float | "-5"|int | "+5"|int | "1e5"|int | "٣"|int
2.5|round | 3.5|round | 2.567|round(2) | 2.5|round(0, "ceil") | 2.5|round(0, "floor") | -2.5|round | 7|round | 42.55|round(1, "floor") | 1.005|round(2) | "a"|round | 2.5|round|int | 0.5|round | 1e20|round | true|round | -0.4|round | 2.1|round(1, "nope") | -5|abs | -2.5|abs | "a"|abs | -1.5|abs|string
"a b"|replace(" ", "_") | "aaa"|replace("a", "b", 2) | 123|replace("2", "x") | s|replace("世", "") | "ab"|replace("", "-") | none|replace("None", "x") | "aXbX"|replace("X", 1) | "%s-%s"|format(1, "a") | "%(a)s"|format(a=1) | "%s"|format | "%d"|format("x") | "%s"|format(1, a=2)
multi|indent | multi|indent(2, true) | multi|indent(2, blank=true) | multi|indent("> ") | "a\\n"|indent | ""|indent | n|indent | multi|indent(width=1, first=true, blank=true) | "a\\n\\nb"|indent(4) | multi|wordcount | s|wordcount | "a-b c_d"|wordcount | "x"|center(5) | "ab"|center(5) | s|center|length | "foo bar baz qux"|truncate(9) | "foo bar baz qux"|truncate(9, true) | "foo bar baz qux"|truncate(11) | "foo bar baz qux"|truncate(9, false, "..", 0) | "foobarbazqux"|truncate(5, leeway=0) | "ab"|truncate(1)
"a b&ü/?"|urlencode | {"a b": "c&d"}|urlencode | [["k", 1]]|urlencode | "<a href='x'>&\\""|e | "<"|escape ~ "<" | "<"|safe | ("<"|e) + ">" | ("<"|safe)|upper | "<"|e|e | "<"|e|forceescape | ("<"|safe) ~ 1 | ("x"|safe) is string | ("x"|safe) is escaped | ["<"|e] | ("a"|safe)|length | ("a"|safe) == "a" | "a"|safe|tojson | "<x>"|string | "a"|attr("upper") is callable | d|attr("z") is defined | d|attr("get") is defined | "a"|attr(1)
list|string | d.a|string | none|string | t|string|lower | list|tojson | d|tojson | d|tojson(indent=2) | d|tojson(indent=0) | d|tojson(indent="\\t") | [1, "あ<>&'"]|tojson | [1, "あ"]|tojson(ensure_ascii=true) | "😀"|tojson(true) | d|tojson(separators=(",", ":")) | d|tojson(sort_keys=true) | d|tojson(indent=2, separators=(", ", " = ")) | {}|tojson | []|tojson(indent=2) | {1: 2, none: 3, true: 4, 1.5: 5}|tojson | (1, 2)|tojson | floats|tojson | x|tojson | tricky|tojson | tricky|tojson(ensure_ascii=true) | none|tojson | {(1, 2): 3}|tojson | range(3)|tojson | d.keys()|tojson | "inf"|float|tojson | [[], {}, [[1]]]|tojson(indent=1) | d|tojson(bogus=1) | {"b": 1, "a": 2}|tojson(sort_keys=true, indent=4) | "\\x07/\\x7f"|tojson | big|tojson | {"a": 1, 2: 3}|tojson(sort_keys=true) | d|tojson|length | d|tojson(4) | list|tojson(indent=none)
s.upper() | s.lower() | "ab cd".title() | "they're bill's".title() | "aB".swapcase() | "éa".capitalize() | "ﬁx".capitalize() | text.strip() | text.lstrip() | text.rstrip() | "xxaxx".strip("x") | "abcba".strip("ab") | "xxa".lstrip("x") | "axx".rstrip("x") | "\\u3000a\\u00a0".strip() | "\\x1ca".strip() | s.strip(none)
"a,b,,c".split(",") | "a b  c ".split() | "a b c".split(" ", 1) | "a b c".rsplit(" ", 1) | " a  b c ".split(none, 1) | " a  b c ".rsplit(none, 1) | "a-b-c".split("-", maxsplit=1) | "".split() | "".split(",") | "abc".split("") | "aXXbXXc".split("XX") | multi.splitlines() | multi.splitlines(true) | "a\\x0bb\\x1cc\\u2028d".splitlines() | " ".split(none, 0) | " a b ".split(none, 0) | "a,b".split(",", 0) | "a,b,c".split(",", -1) | "a b".rsplit() | "<think>x</think>y".split("</think>")[-1] | "x".split("y")[0].split("x")
"abc".startswith("a") | "abc".startswith(("x", "a")) | "abc".endswith("c") | "abc".endswith(("x", "y")) | "abc".startswith("b", 1) | "abc".endswith("b", 0, 2) | "abc".startswith("") | "abc".startswith(1) | "abc".startswith(["a"]) | "abc".find("c") | "abc".find("x") | "世界世".rfind("世") | "abc".index("b") | "abc".index("x") | "abcabc".find("b", 2) | "abcabc".count("bc") | "aaa".count("") | "abcabc".count("b", 2) | "aaaa".count("aa") | "abc".rindex("c") | "abc".find("c", -1) | "abc".find("", 5)
"aXbX".replace("X", "-") | "aXbX".replace("X", "-", 1) | "abc".replace("", "-") | "abc".removeprefix("a") | "abc".removesuffix("c") | "abc".removeprefix("x") | "-".join(["a", "b"]) | "-".join([1]) | "".join(words) | ", ".join(d) | "-".join("abc") | "a-b".partition("-") | "a-b-c".rpartition("-") | "ab".partition("-") | "ab".rpartition("-") | "ab".partition("")
"5".zfill(3) | "-5".zfill(4) | "ab".ljust(5, ".") | "ab".rjust(5) | "ab".center(5) | "abc".center(6) | "ab".center(5, "*") | "a\\tb".expandtabs(4) | "ab".ljust(5, "xx") | "ab".center(1) | "x".ljust(3) ~ "|" | "é".zfill(3)
"abc".isalpha() | "ab1".isalnum() | "12".isdigit() | "²".isdigit() | "²".isdecimal() | "12".isnumeric() | " \\t".isspace() | "".isalpha() | "aB".islower() | "ab".islower() | "AB1".isupper() | "1".islower() | "日本".isalpha() | "１".isdigit() | "abc".isascii() | "é".isascii() | "a\\n".isprintable() | "日本1".isalnum() | "か\\u3099".isalpha()
"abc".encode() | "abc".translate({}) | "abc".nope() | "abc".format.x | "ß".casefold() | "ABC".casefold() | "abc".istitle() | "a".upper(1) | "a".strip(1) | "a".replace("a") | (1).bit_length() | f.is_integer() | n.real | "a".upper.x | n() | s() | list() | none()
3 is odd | 4 is even | 9 is divisibleby 3 | 9 is divisibleby(4) | n is number | t is number | t is integer | n is integer | f is float | t is boolean | t is true | n is true | none is none | s is string | s is sequence | s is iterable | s is mapping | d is mapping | d is sequence | list is sequence | list is iterable | n is iterable | (list|map("string")) is sequence | (list|map("string")) is iterable | range(2) is sequence | d.items() is sequence | d.items() is iterable
"abc" is lower | "ABC" is upper | "a" is eq "a" | n is gt 5 | n is ge(7) | n is lt 5 | n is ne 7 | n is equalto 7 | n is lessthan 8 | n is greaterthan 8 | 1 is in [1] | 1 is not in [1] | "upper" is filter | "nope" is filter | "odd" is test | d.get is callable | range is callable | none is sameas none | true is sameas true | list is sameas list | n is not defined | s is not string | n is nope | n is defined and n is odd | n is divisibleby 7 and t | not n is odd | n is odd is even | s is escaped | n is "a" | "a" is odd | x is odd | e is false | none is false | "é" is lower | "1" is lower | 3 is odd(1)
list|nope | e|nope | (list|nope) if e else 1 | 1 if t else (list|nope) | n|upper|lower | s|upper() | s|upper(1) | list|first|string | -1|string | 1|float + 1 | "a"|upper ~ "b"|upper | n|default(1)|string | d.a.b|sum + 1 | not list|length | list|length > 2 and t | (list|length) ~ "x" | list|map("string")|join("+")|upper|replace("+", "-")
list|map("string") | list|select|length | list|select|first | (list|map("string"))[0] | list|reverse|first | list|reverse|length | d.items()|list|length | d.items()|first | d.items()[0] | d.keys()|join(",") | d.values()|list|length | (d.items()|list)[0][1] | list|unique|length | list|map("string")|last | list|select("odd")|list|last | "a"|list | d.a.items()|map("first")|list | d.a.items()|sort | list|slice(2)|map("list")|list | list|batch(2)|map("first")|list
"ab"|map("upper")|join | {"a": 1}.items()|map("join", "=")|list | "abc"|batch(2)|map("join")|join("-") | "a.b"|replace(".", "") | "3"|int * 2 | 3|string * 2 | "%.1f"|format(f) | people[0]["name"]|lower | people|length * 2 | people[-1].name[0] | people[0].tags[0]|upper | people|map(attribute="age")|sum / 3 | people|map(attribute="age")|unique|list | words|sort|first ~ words|last | range(3)|map("string")|join | range(4)|select("even")|sum
strftime_now("%Y-%m-%d") | strftime_now("%d %b %Y, %A %B %H:%M:%S") | strftime_now("%a %w %u %j %U %W %V %G %y %C %I %p %M %f") | strftime_now("%c|%x|%X|%D|%F|%T|%R|%r|%e|%k|%l|%h|%P|%n%t%%") | strftime_now("%-d/%-m %-H %-I") | strftime_now("%z%Z.") | strftime_now("%_d %^a") | strftime_now("no codes é") | strftime_now(1) | strftime_now() | strftime_now("%Y年%m月%d日")
"textwrap this"|wordwrap(5) | "<b>x</b>"|striptags | "http://x.y"|urlize | {"a": 1}|xmlattr | 1000000|filesizeformat | d|pprint | list|random | "a"|map("wordwrap")|list
""".replace("[] | first |", "")

# Whole templates.
TEMPLATES = {
    "newlines": "a\r\nb\rc\n{% if t %}\r\nx\r\n{% endif %}\r\ny\n",
    "newline at the end": "a\n\n",
    "one newline": "\n",
    "nothing": "",
    "spaces before tags": "  {% if t %}\n    a\n  {% endif %}\n\tb {% if t %} c {% endif %}\n",
    "plus keeps": "  {%+ if t %}\n  a\n  {%+ endif +%}\nb\n",
    "minus strips": "a \n {%- if t -%} \n b \n {%- endif -%} \n c {{- n -}} d",
    "minus in variables": "a  {{- ' x ' -}}  b",
    "lstrip at variables": "  {{ n }}\n  {{ n }}",
    "trim after blocks": "{% if t %}\n\n\nx{% endif %}\n\n",
    "block after block": "{% if t %}  {% endif %}  {% if t %}\n  {% endif %}x",
    "lstrip after a tag in the line": "{{ n }}  {% if t %}y{% endif %}\n  {% if t %}z{% endif %}",
    "comments": "a {# x\n y #}\n  {# z #}\nb{#- strip -#} c {#+ keep +#}\nd",
    "comment with tags": "{# {% if %} {{ }} #}x",
    "open comment": "a {# b",
    "raw": "{% raw %}{{ n }} {% if %} {# x #}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  b",
    "raw and newlines": "  {% raw %}\n  a\n  {% endraw %}\nb",
    "raw without end": "{% raw %} x",
    "open variable": "{{ n ",
    "open block": "{% if t",
    "bad brackets": "{{ (1] }}",
    "bad character": "{{ n ? }}",
    "two values": "{{ n n }}",
    "empty variable": "{{ }}",
    "tuple output": "{{ 1, 2 }}",
    "dict at the end": "{{ {'a': {'b': 1}} }}",
    "unknown tag": "{% do n %}",
    "unknown end": "{% endif %}",
    "missing end": "{% if t %}x",
    "wrong end": "{% if t %}{% endfor %}",
    "if chain": "{% if e %}1{% elif nothing %}2{% elif n == 7 %}3{% else %}4{% endif %}",
    "if with colon": "{% if t: %}x{% endif %}",
    "if tuple": "{% if 0, %}x{% endif %}",
    "for": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ m.role }};{% endfor %}",
    "for else": "{% for m in [] %}x{% else %}none{% endfor %}{% for m in x %}x{% else %}none{% endfor %}",
    "for else after continue": "{% for i in [1, 2] %}{% continue %}{% else %}else{% endfor %}{% for i in [1, 2] %}{% break %}{% else %}else{% endfor %}",
    "for over things": "{% for c in 'añ' %}{{ c }};{% endfor %}{% for k in d %}{{ k }};{% endfor %}{% for k, v in d.a.items() %}{{ k }}={{ v }}{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}",
    "for over a number": "{% for i in n %}{% endfor %}",
    "for unpacking": "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for a, b in pair %}{{ a }}{{ b }}{% endfor %}",
    "for unpacking wrong": "{% for a, b in [[1]] %}{% endfor %}",
    "for filter": "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ m.content }}{{ loop.last }};{% else %}none{% endfor %}",
    "for filter with namespace": "{% set ns = namespace(n=0) %}{% for i in range(9) if ns.n < 3 %}{% set ns.n = ns.n + 1 %}{{ i }}{% endfor %}",
    "for filter and its scope": "{% set i = 5 %}{% for i in range(4) if i is odd %}{{ i }}{% endfor %}{{ i }}",
    "break and continue": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "break outside": "{% break %}",
    "break in macro": "{% for i in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "break in nested": "{% for i in [1, 2] %}{% for j in [1, 2] %}{% break %}{% endfor %}{{ i }}{% endfor %}",
    "loop neighbours": "{% for i in list %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}{% for i in [1] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "loop cycle and changed": "{% for i in [1, 1, 2] %}{{ loop.cycle('a', 'b') }}{{ loop.changed(i) }}{% endfor %}",
    "loop depth": "{% for i in [1] %}{{ loop.depth }}{% for j in [1, 2] %}{{ loop.depth }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "loop outside": "{{ loop is defined }}{% for i in [1] %}{% endfor %}{{ loop is defined }}",
    "loop assigned": "{% for i in [1] %}{% set loop = 1 %}{% endfor %}",
    "loop in else": "{% for i in [] %}{% else %}{{ loop is defined }}{% endfor %}",
    "outer loop": "{% for i in [1, 2] %}{% set outer = loop %}{% for j in ['a'] %}{{ outer.index }}{{ j }}{% endfor %}{% endfor %}",
    "recursive": "{% for n in [{'v': 1, 'c': [{'v': 2}, {'v': 3, 'c': [{'v': 4}]}]}] recursive %}{{ n.v }}@{{ loop.depth }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}",
    "not recursive": "{% for n in [1] %}{{ loop([2]) }}{% endfor %}",
    "loop over iterator": "{% for w in words|map('upper') %}{{ w }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "iterator used twice": "{% set m = words|map('upper') %}{{ m|join }}{{ m|join }}",
    "iterator in part": "{% set m = words|map('upper') %}{{ m|first }}{{ m|join }}",
    "iterator and in": "{% set m = words|map('upper') %}{{ 'A' in m }}{{ m|join }}",
    "loop printed": "{% for i in [1, 2] %}{{ loop }}{% endfor %}",
    "assign in loop is lost": "{% set a = 1 %}{% for i in [1, 2] %}{{ a }}{% set a = i + 5 %}{{ a }}{% endfor %}{{ a }}",
    "assign in if stays": "{% if t %}{% set a = 1 %}{% endif %}{{ a }}{% if e %}{% set b = 1 %}{% endif %}{{ b is defined }}",
    "assign in if over a variable": "{% if e %}{% set n = 1 %}{% endif %}{{ n }}{% if t %}{% set s = 1 %}{% endif %}{{ s }}",
    "assigned below its use in a loop": "{% for i in [1] %}{{ n is defined }}{% endfor %}{% set n = 1 %}{{ n }}",
    "assigned below its use": "{{ n }}{% set n = 1 %}{{ n }}",
    "assigned below its use in a macro": "{% macro m() %}{{ n }}{% endmacro %}{{ m() }}{% set n = 1 %}{{ m() }}",
    "assign in a branch within a loop": "{% for i in [1, 2, 3] %}{% if i == 2 %}{% set x = i %}{% endif %}{{ x }}.{% endfor %}",
    "assign in elif": "{% if e %}{% set q = 1 %}{% elif t %}{% set q = 2 %}{% else %}{% set q = 3 %}{% endif %}{{ q }}",
    "assign a tuple": "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set a, b = b, a %}{{ a }}{{ b }}",
    "assign a tuple without parentheses": "{% set a = 1, 2 %}{{ a }}",
    "assign to a constant": "{% set true = 1 %}",
    "assign to an item": "{% set d.z = 2 %}",
    "assign to an undefined namespace": "{% set q.z = 2 %}",
    "namespace": "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% set ns.b = i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns['a'] }}{{ ns }}",
    "namespace underscore": "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "namespace tuple": "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
    "set block": "{% set a %}x{{ n }}{% endset %}[{{ a }}]{% set b | upper | replace('Y', 'z') %}y{% set c = 1 %}{% endset %}{{ b }}{{ c is defined }}",
    "set block in namespace": "{% set ns = namespace() %}{% set ns.a %}x{% endset %}{{ ns.a }}",
    "filter block": "{% filter upper %}a{{ n }}{% set q = 1 %}{% endfilter %}{{ q is defined }}{% filter replace('a', 'b')|upper %}aa{% endfilter %}",
    "with": "{% with a = 1, b = n %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}{{ a is defined }}{{ c is defined }}{% with %}{% set n = 1 %}{{ n }}{% endwith %}{{ n }}",
    "with and outer names": "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "with tuple": "{% with a, b = [1, 2] %}{{ a }}{{ b }}{% endwith %}",
    "print": "{% print n, s %}",
    "macro": "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}{{ m(1, c=9) }}",
    "macro too many": "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "macro unknown name": "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
    "macro given twice": "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}",
    "macro default order": "{% macro m(a=1, b) %}{% endmacro %}",
    "macro parameter twice": "{% macro m(a, a) %}{% endmacro %}{{ m(1, 2) }}",
    "macro varargs": "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m() }}",
    "macro scope": "{% set a = 1 %}{% macro m() %}{{ a }}{% set a = 2 %}{{ a }}{% endmacro %}{{ m() }}{{ a }}",
    "macro sees later": "{% macro m() %}{{ later }}{% endmacro %}{{ m() }}{% set later = 1 %}{{ m() }}",
    "macro default sees later parameter": "{% macro m(a=b, b=1) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}",
    "macro recursion": "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "macro endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro in a loop": "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}",
    "macro as text": "{% macro m() %} a {% endmacro %}{{ m()|trim ~ '|' }}{{ m }}{{ m.name }}{{ m() == ' a ' }}{{ m() is string }}",
    "macro attributes": "{% macro m(a, b=1) %}{{ kwargs }}{% endmacro %}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m.x is defined }}",
    "macro stars": "{% macro m(a, b, c=0) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(1, **{'b': 2, 'c': 3}) }}{{ m(*(1,), b=2) }}",
    "macro named as a variable": "{% macro n() %}x{% endmacro %}{{ n() }}",
    "macro in an if": "{% if t %}{% macro m() %}x{% endmacro %}{% endif %}{{ m() }}",
    "macro and loop variable": "{% macro m(x) %}{{ x }}{{ loop is defined }}{% endmacro %}{% for i in [1, 2] %}{{ m(i) }}{% endfor %}",
    "macro with namespace": "{% macro add(ns) %}{% set ns.n = ns.n + 1 %}{% endmacro %}{% set ns = namespace(n=0) %}{{ add(ns) }}{{ add(ns) }}{{ ns.n }}",
    "macro passed": "{% macro a(x) %}<{{ x }}>{% endmacro %}{% macro b(f, x) %}{{ f(x) }}{% endmacro %}{{ b(a, 1) }}",
    "call block": "{% macro m(a) %}[{{ a }}:{{ caller() }}]{% endmacro %}{% call m(1) %}x{{ n }}{% endcall %}",
    "call block with arguments": "{% macro m() %}{{ caller(1, 2) }}{{ caller(b=4, a=3) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
    "call block scope": "{% set a = 1 %}{% macro m() %}{% set a = 2 %}{{ caller() }}{% endmacro %}{% call m() %}{{ a }}{% set a = 3 %}{% endcall %}{{ a }}",
    "call without caller": "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% macro k() %}{{ caller() }}{% endmacro %}{{ k() }}",
    "call that takes no caller": "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "call of no call": "{% call n %}x{% endcall %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "generation and space": "a  {%- generation -%}  b  {%- endgeneration -%}  c\n  {% generation %}\n  d\n  {% endgeneration %}\ne",
    "generation scope": "{% set a = 1 %}{% generation %}{{ a }}{% set a = 2 %}{{ a }}{% set b = 3 %}{% endgeneration %}{{ a }}{{ b is defined }}",
    "generation and namespace": "{% set ns = namespace(a=1) %}{% generation %}{% set ns.a = 2 %}{% endgeneration %}{{ ns.a }}",
    "generation and break": "{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "generation with a loop": "{% generation %}{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}{% endgeneration %}",
    "generation sees the loop": "{% for i in [1, 2] %}{% generation %}{{ loop.index }}{{ i }}{{ loop.last }}{% endgeneration %}{% endfor %}",
    "generation in text": "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
    "generation in a macro": "{% macro m(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}{{ m(1) }}{{ m(2)|upper }}",
    "generation within itself": "{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}",
    "generation as a variable": "{{ generation is defined }}{% set generation = 1 %}{{ generation }}",
    "generation without end": "{% generation %}x",
    "joiner and cycler": "{% set j = joiner('; ') %}{% for i in list %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "undefined tools": "{{ tools }}{{ tools is none }}{{ tools is defined }}{{ documents is none }}{% if tools is not none and tools %}x{% endif %}{% if not tools is defined %}y{% endif %}",
    "special tokens": "{{ bos_token is defined }}{{ bos_token }}{{ unk_token }}{{ pad_token ~ 'x' }}",
    "raise": "{{ raise_exception('no ' ~ n) }}",
    "raise in a branch": "{% if e %}{{ raise_exception('never') }}{% endif %}ok",
    "alternate roles": "{% for m in messages[1:] %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}",
    "system first": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0].content %}{% else %}{% set rest = messages %}{% endif %}{{ sys }}{% for m in rest %}{{ m.content }}{% endfor %}",
    "last user": "{% set ns = namespace(last=-1) %}{% for m in messages[::-1] %}{% set i = (messages|length - 1) - loop.index0 %}{% if ns.last < 0 and m.role == 'user' %}{% set ns.last = i %}{% endif %}{% endfor %}{{ ns.last }}",
    "content types": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "index by variable": "{% set k = 'role' %}{{ messages[0][k] }}{{ messages[n - 7].role }}",
    "extends": "{% extends 'x' %}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "do not break words": "{{ notes }}{{ isx }}{{ inx }}{{ orx ~ andx }}",
    "names beyond ascii": "{% set 名前 = 1 %}{{ 名前 }}",
    "names like words": "{% set ifx = 1 %}{{ ifx }}{{ not_x is defined }}",
    "line statements are text": "# for x in y\n%% if x\n## c",
    "braces in text": "{ { } } %} }} #} {",
    "deep": "{% if t %}" * 15 + "x" + "{% endif %}" * 15,
    "long concatenation": "{{ " + " ~ ".join(["n"] * 60) + " }}",
    "long sum": "{{ " + " + ".join(["'a'"] * 60) + " }}",
    "dict methods win": "{{ d.items is callable }}{{ d['items'] }}{{ d.a.get('b') }}{{ 'keys' in d }}{{ d.keys is callable }}",
    "schema with items": "{% set p = {'type': 'array', 'items': {'type': 'string'}} %}{{ p.items.type is defined }}|{{ p['items'].type }}|{{ p.items is mapping }}|{{ p.type }}",
    "unsafe is empty": "{{ list.append }}|{{ d.pop }}|{{ d.update is defined }}",
    "tests with arguments": "{% if n is divisibleby 7 and s is string and d is mapping or e %}x{% endif %}{{ 'b' is in words and 1 }}",
    "not in precedence": "{{ not 'a' in 'b' }}{{ 'a' not in 'b' and not false }}{{ not not n }}",
    "condition precedence": "{{ 'a' ~ 'b' if t else 'c' ~ 'd' }}{{ 1 + 2 if e else 3 * 4 }}{{ [1 if e else 2, 3] }}",
    "filter precedence": "{{ 'a' ~ 'b'|upper }}{{ ('a' ~ 'b')|upper }}{{ 1 + '2'|int }}{{ -5|abs }}{{ 2 ** 2|string|length }}{{ n if t else s|upper }}",
    "test after filter": "{{ list|length is odd }}{{ list|first == 3 }}{{ s|lower is lower }}",
    "dotted numbers": "{{ pair.0.1 }}{{ pair[0][1] }}{{ list.0 + list.1 }}",
    "call and index": "{{ s.split(', ')[1][0] }}{{ 'a b'.split()[-1].upper() }}{{ {'a': [1]}['a'][0] }}{{ [1, 2, 3][1:][0] }}",
    "strings side by side": "{{ 'a' 'b' ~ 'c' 'd' }}",
    "autoescape is off": "{{ '<b>' }}{{ '&' ~ '<' }}{{ ['<'] }}",
    "inline if without else": "[{{ 'x' if e }}]{{ ('x' if e) is defined }}",
    "set then loop then use": "{% set out = [] %}{% for i in list %}{% set out = out + [i] %}{% endfor %}{{ out }}",
    "lists through namespace": "{% set ns = namespace(l=[]) %}{% for i in list %}{% set ns.l = ns.l + [i * 2] %}{% endfor %}{{ ns.l }}{{ ns.l|sum }}",
    "dict through namespace": "{% set ns = namespace(d={}) %}{% for k in words %}{% set ns.d = dict(ns.d, **{k: loop.index}) %}{% endfor %}{{ ns.d }}{{ ns.d|tojson }}",
    "tool schema": "{% for t in tools %}{{ t|tojson }}\n{{ t.function.name }}{% for k, v in t.function.parameters.properties.items() %}{{ k }}:{{ v.type }}{% if not loop.last %}, {% endif %}{% endfor %}{% endfor %}",
    "tool schema indented": "{{ tools|tojson(indent=4) }}",
    "arguments": "{% for c in [{'arguments': {'x': 1.0, 'y': 'é'}}, {'arguments': '{\"x\": 1}'}] %}{{ c.arguments if c.arguments is string else c.arguments|tojson }};{{ c.arguments }}{% endfor %}",
    "generation prompt": "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ add_generation_prompt }}",
    "thinking flag": "{% if enable_thinking is defined and enable_thinking is false %}off{% else %}on{% endif %}",
}

TOOLS = [{"type": "function", "function": {"name": "f", "description": "d <é>", "parameters": {"type": "object", "properties": {
    "x": {"type": "integer", "description": "あ"}, "y": {"type": "string", "enum": ["a", "b"]}}, "required": ["x"]}}}]


def split(text):
    """The expressions between bars that stand alone."""
    for line in text.replace("'line\\\\\ncontinued'", "'line\\\\\x00continued'").strip().split("\n"):
        for expression in line.split(" | "):
            yield expression.strip().replace("\x00", "\n")


def cases():
    seen = set()
    for expression in list(split(EXPRESSIONS)) + list(split(CALLS)):
        if expression and expression not in seen:
            seen.add(expression)
            yield expression, "{{ " + expression.replace("\\\\", "\\") + " }}"
    yield from TEMPLATES.items()


def render(case):
    case = copy.deepcopy(case)
    messages = _normalize_chat_messages(case["messages"])
    texts, _ = chat_template_utils.render_jinja_template(
        conversations=[messages], tools=case["tools"], documents=case["documents"], chat_template=case["template"],
        add_generation_prompt=case["add_generation_prompt"], **case["variables"])
    return texts[0]


def main():
    out = []
    for name, template in cases():
        needs_tools = name.startswith("tool schema")
        case = {"name": name, "template": template, "messages": TALK, "tools": TOOLS if needs_tools else None, "documents": None,
                "add_generation_prompt": name == "generation prompt", "variables": dict(DATA, bos_token="<s>", pad_token="<pad>")}
        try:
            text = render(case)
            if name in RANDOM or " at 0x" in text:
                case["error"] = "another text each time"
            else:
                case["text"] = text
        except Exception as e:
            case["error"] = f"{type(e).__name__}: {e}"
        out.append(case)
    # The data are written once.
    shared = {key: out[0][key] for key in ("messages", "variables")}
    lines = [{key: value for key, value in case.items() if shared.get(key) != value and value not in (None, False)} for case in out]
    refused = sorted(REFUSED_BY_IRORI)
    unknown = [name for name in refused if name not in {case["name"] for case in out}]
    assert not unknown, unknown
    for case in lines:
        if case["name"] in REFUSED_BY_IRORI:
            case["refused"] = True
    versions = {"jinja2": jinja2.__version__, "transformers": transformers.__version__}
    head = json.dumps({"versions": versions, **shared}, ensure_ascii=True)[:-1]
    body = ",\n".join(json.dumps(case, ensure_ascii=True) for case in lines)
    (HERE / "templates.json").write_text(f"{head}, \"cases\": [\n{body}\n]}}\n", encoding="utf-8")
    print(len(out), "cases,", sum("error" in case for case in out), "of them errors")


# What jinja2 renders and irori says it does not.
REFUSED_BY_IRORI = {
    '"１２"|int', '"٣"|int', '"abc".encode()', '"abc".translate({})', '"ß".casefold()', '"abc".istitle()', "(1).bit_length()", "f.is_integer()",
    "n.real", '"textwrap this"|wordwrap(5)', '"<b>x</b>"|striptags', '"http://x.y"|urlize', '{"a": 1}|xmlattr', "1000000|filesizeformat",
    "d|pprint", '"a"|map("wordwrap")|list',
}
# What differs each time it is rendered, as does every text with an address in memory.
RANDOM = {"lipsum(1)", "list|random"}

if __name__ == "__main__":
    main()
