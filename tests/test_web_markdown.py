"""The web chat's Markdown and colours: against markdown-it, cut anywhere, and with what is meant to do harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

if TYPE_CHECKING:
    from tests.chat_page import ChatPage

pytest_plugins = ["tests.chat_page"]

#: What Markdown makes of each text of a list, given in pieces of `step` characters; HTML without the page's own frame.
RENDER = """async ([texts, step]) => {
  const { Markdown } = await import('/assets/markdown.js');
  const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[sign]);
  const html = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
    const inner = [...node.childNodes].map(html).join('');
    const tag = node.localName;
    if (tag === 'figure') return `<pre><code>${escaped(node.querySelector('code').textContent)}</code></pre>`;
    if (tag === 'input') return node.checked ? '[x] ' : '[ ] ';
    if (tag === 'span' || tag === 'div') return inner;
    if (tag === 'br' || tag === 'hr') return `<${tag}>`;
    const name = node.dataset.level ? `h${node.dataset.level}` : tag;
    const kept = { a: 'href', ol: 'start' }[tag];
    const shown = kept && node.hasAttribute(kept) ? ` ${kept}="${escaped(node.getAttribute(kept))}"` : '';
    return `<${name}${shown}>${inner}</${name}>`;
  };
  return texts.map((text) => {
    const root = document.createElement('div');
    const markdown = new Markdown(root);
    for (let end = step; end < text.length; end += step) markdown.update(text.slice(0, end));
    markdown.update(text);
    return html(root);
  });
}"""

TEXTS = [
    "Plain text.\n\nTwo paragraphs,\nand a line.",
    "# One\n## Two ##\n### Three *em*\n#### Four\n#no heading\n####### none",
    "*em* **strong** ***both*** _em_ __strong__ ~~gone~~ `code` ``a ` b``",
    "snake_case_name and __init__ and 2*3*4 and a * b * c",
    "**bold *inner* bold** *em **inner** em* **a*b** ***a** b*",
    "*not closed and **neither",
    "\\*escaped\\* \\`code\\` [x\\](y) \\\\",
    "`code with *stars* and <b>` and `` ` ``",
    '[link](https://example.org) [titled](https://example.org/a_b "title") [par](https://e.org/a(b)c) <https://e.org/?a=b&c>',
    "[nested *em* `code`](https://example.org) [no link] [x](",
    "- one\n- two\n- three",
    "* a\n  * b\n    * c\n* d",
    "1. one\n2. two\n   - inner\n   - inner two\n3. three",
    "7. seven\n8. eight",
    "- loose\n\n- items\n\n  with a paragraph\n- end",
    "1. Code:\n\n   ```python\n   x = 1\n   ```\n\n2. After",
    "- a\n\ntext after\n\n- b",
    "text\n- list at once\n- two",
    "text\n5. no list",
    "- one\n+ other\n+ list",
    "> quoted\n> more\n\n> another",
    "> - list in a quote\n>   ```\n>   code\n>   ```\n> > deeper",
    "```python\nprint('hi')\n\n# not a heading\n```\nafter",
    "````\n```\ninner\n```\n````",
    "~~~\ntilde\n~~~",
    "```\nnever closed\n- x",
    "---\n***\n_ _ _\ntext\n\n---",
    "| a | b |\n|---|---|\n| 1 | **2** |\n| `x` | |",
    "a | b\n--|--\n1 | 2\n\nafter",
    "| short |\n|---|\n| one | two | three |",
    "text\n\n| a | b |\n|:-:|--:|\n| 1 | 2 |\ntext",
    "| no | table |\nat all",
    "<b>markup</b> & entities <script>alert(1)</script>",
    "1) one\n2) two",
    "**Note:** x\n\n1. **First**: *a*\n2. **Second**: `b`\n\n**End**",
    "“**quoted**”, (**bold**), **bold**: **a**,**b**",
    "日本語**強調**テキスト *a*b **c**d",
    "line one  \nline two\\\nline three",
    "* item\n\n\n\n* item two\n\n\npara",
    "Text:\n```js\nx\n```\n# H\n> q",
]

HARM = [
    "[x](javascript:alert(1)) [y](JavaScript:alert(1)) [z](data:text/html,x) ![p](https://e.org/i.png)",
    '<a href="javascript:x">x</a> <img src=x onerror=alert(1)> <svg onload=alert(1)>',
    '[a](https://e.org/"onclick="alert(1)) <javascript:alert(1)>',
    "| <script>x</script> | [x](vbscript:x) |\n|---|---|\n| <iframe> | `<b>` |",
    "```<script>\nx\n```",
    "[![x](javascript:y)](javascript:z)",
]

INLINE = [
    "[",
    "]",
    "`",
    "|",
    "<",
    "\\",
    "$",
    "*a_",
    "a*",
    "_ a*",
    "`a``b",
    "**",
    "~~a",
    "![](",
    "https://",
    "[a](((",
    "\\(",
]
SLOW = [
    *(text * (20_000 // len(text)) for text in INLINE),  # longer ones are shown as they are
    *(text * (60_000 // len(text)) for text in (*INLINE, "\n", "1. x\n", "|a|\n|-|\n", "```\n")),
    *(text * 30_000 + "x" for text in ("> ", "- ", "  ", "#", "1. ")),
    "|a" * 300 + "\n" + "|-" * 300 + "\n" + "|b\n" * 300,
    "(" * 30_000 + ")" * 30_000,
    "```" + '"' * 60_000,
    "\n".join(" " * n + "- x" for n in range(200)),
    "*a " * 3_000 + "_a " * 3_000 + "b* " * 600,
]


#: Language, code, and what of it has which colour.
COLOURS = [
    (
        "python",
        "def f(x: int):  # why\n    return 'a' + 1.5",
        "keyword:def call:f comment:# why keyword:return string:'a' number:1.5",
    ),
    (
        "python",
        '"""doc\n# no comment"""\nclass Big: pass',
        'string:"""doc\n# no comment""" keyword:class type:Big keyword:pass',
    ),
    (
        "js",
        "const f = async () => `a ${b}`; // x",
        "keyword:const keyword:async string:`a ${b}` comment:// x",
    ),
    (
        "rust",
        "fn main() { println!(\"{}\", 'x'); } /* y */",
        "keyword:fn call:main call:println! string:\"{}\" string:'x' comment:/* y */",
    ),
    ("json", '{"a": [1, true, "b"]}', 'type:"a" number:1 keyword:true string:"b"'),
    (
        "bash",
        'if [ "$A" ]; then echo --all $B # c',
        'keyword:if string:"$A" keyword:then keyword:echo number:--all type:$B comment:# c',
    ),
    ("html", '<a href="x">text</a>', 'keyword:<a type:href string:"x" keyword:> keyword:</a keyword:>'),
    ("diff", "+a\n-b\n c", "add:+a remove:-b"),
    (
        "c",
        "#include <a.h>\nint main(void) { return 0x1F; /* a\nb */ }",
        "keyword:#include keyword:int call:main keyword:void keyword:return number:0x1F comment:/* a\nb */",
    ),
]


@pytest.fixture
def render(desk: ChatPage) -> Callable[..., list[str]]:
    return lambda texts, step=1 << 30: desk.page.evaluate(RENDER, [texts, step])


def expected(text: str) -> str:
    """The same of markdown-it, with line breaks kept, and without what the page leaves out or adds."""
    markdown_it = pytest.importorskip("markdown_it", reason="needs markdown-it-py")
    reader: Any = markdown_it.MarkdownIt("commonmark", {"html": False, "breaks": True})
    reader.enable(["table", "strikethrough"]).disable(["lheading", "code", "reference"])
    html = reader.render(text).replace("<s>", "<del>").replace("</s>", "</del>").replace("&quot;", '"')
    html = re.sub(r'<(ol start="\d+"|a href="[^"]*"|\w+)[^>]*?\s*/?>', r"<\1>", html)
    html = re.sub(r"\n(?=</code></pre>)", "", html)
    return re.sub(r"<br>\n", "<br>", html)


def test_markdown_is_what_markdown_it_makes_of_it(render: Callable[..., list[str]]):
    def squeezed(html: str) -> str:
        return re.sub(r"\s*\n\s*(?=<)|(?<=>)\s*\n\s*", "", html).strip()

    found = render(TEXTS)
    for text, one in zip(TEXTS, found, strict=True):
        assert squeezed(one) == squeezed(expected(text)), text


def test_an_answer_that_grows_ends_as_if_it_came_at_once(render: Callable[..., list[str]]):
    whole = "\n\n".join(TEXTS)
    assert render([whole], 1) == render([whole]) and render([whole], 7) == render([whole])
    assert render(TEXTS, 1) == render(TEXTS)


def test_blocks_that_are_done_are_left_alone_while_an_answer_grows(desk: ChatPage):
    kept = desk.page.evaluate("""async () => {
        const { Markdown } = await import('/assets/markdown.js');
        const root = document.createElement('div');
        const markdown = new Markdown(root);
        markdown.update('# Head\\n\\n```py\\nx = 1\\n');
        const [head, code] = [...root.children];
        const button = code.querySelector('button');
        markdown.update('# Head\\n\\n```py\\nx = 1\\ny = 2\\n```\\n\\nEnd');
        return [root.children[0] === head, root.children[1].querySelector('button') === button, root.children.length];
    }""")
    assert kept == [True, True, 3]


def test_no_text_becomes_markup_or_a_link_that_runs_something(desk: ChatPage, render: Callable[..., list[str]]):
    for html in render(HARM):
        assert not re.search(r"<(?!/?(p|a|code|pre|br|table|thead|tbody|tr|th|td|em|strong)\b)", html), html
        assert all(address.startswith("https://") for address in re.findall(r'<a href="([^"]*)', html)), html


def test_hostile_text_takes_no_long_time(render: Callable[..., list[str]]):
    for text in SLOW:  # a parser that backtracks would need hours
        assert len(render([text])) == 1


def test_code_keeps_its_text_in_every_language(desk: ChatPage):
    pieces = [
        "def f(x):", '"""doc"""', "'it\\'s'", "# note", "// note", "/* a\nb */", "<!-- c -->", "<a href='x'>",
        "0x1F 1e3", "$HOME", "@x", '"open', "`t ${x}`",
        "#include <a>", "-- sql", "key: value", '{"a": true}', "+added", "-removed",
        "--flag", "\\", "é漢😀", "'a", 'r"x"',
    ]  # fmt: skip
    lost = desk.page.evaluate(
        """async (pieces) => {
            const { highlight } = await import('/assets/highlight.js');
            const names = `python javascript c cpp java csharp kotlin swift go rust php ruby lua bash sql json yaml
                toml html css diff ts sh unknown __proto__ constructor`.split(/\\s+/);
            const texts = pieces.flatMap((one) => pieces.map((other) => `${one}\\n  ${other} ${one}`));
            const changed = (name) => texts.filter((text) => highlight(text, name).textContent !== text);
            return names.flatMap((name) => changed(name).map((text) => [name, text]));
        }""",
        pieces,
    )
    assert lost == []


def test_code_is_coloured(desk: ChatPage):
    found = desk.page.evaluate(
        """async (table) => {
            const { highlight } = await import('/assets/highlight.js');
            const coloured = (span) => `${span.className.slice(2)}:${span.textContent}`;
            const colours = (code, language) => [...highlight(code, language).querySelectorAll('span')].map(coloured);
            return table.map(([language, code]) => [language, code, colours(code, language).join(' ')]);
        }""",
        COLOURS,
    )
    assert [tuple(one) for one in found] == COLOURS


def test_code_is_copied_as_it_is(chat: ChatPage, peer: Any):
    peer.say("```python\nx = 1\n\ny = '<b>'\n```")
    chat.ask("Code")
    chat.button("Copy the code").click()
    chat.button("Copied").wait_for()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "x = 1\n\ny = '<b>'"
    chat.button("Copy the answer").click()
    chat.wait(lambda: chat.page.evaluate("navigator.clipboard.readText()").startswith("```python"))
