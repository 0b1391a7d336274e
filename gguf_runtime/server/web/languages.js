// How languages are written, as far as colours need it: comments, strings, keywords.

const NUMBER = /(?<![\w.])(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?)\w*/;
const WORD = /[A-Za-z_]\w*/;
const DOUBLE = /"(?:[^"\\\n]|\\.)*"?/;
const SINGLE = /'(?:[^'\\\n]|\\.)*'?/;
const C_COMMENT = /\/\/.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/;
const HASH_COMMENT = /(?<![\w$])#.*/;

const words = (text) => new Set(text.split(" "));

/** Alternatives are tried in the order given; what matches none is plain. */
function language(keywords, parts) {
  const whole = { ...parts, number: parts.number ?? NUMBER, word: parts.word ?? WORD };
  const alternatives = Object.entries(whole).map(([name, { source }]) => `(?<${name}>${source})`);
  return { keywords: words(keywords), kinds: Object.keys(whole), pattern: new RegExp(alternatives.join("|"), "gm") };
}

const either = (...patterns) => new RegExp(patterns.map(({ source }) => source).join("|"));

const C_WORDS =
  "if else for while do switch case default break continue return goto sizeof typedef struct union enum " +
  "static const extern inline void int char short long float double unsigned signed bool auto volatile true false NULL";
const JAVA_WORDS =
  "abstract assert boolean break byte case catch char class const continue default do double else enum " +
  "extends final finally float for if implements import instanceof int interface long native new null package private " +
  "protected public record return short static super switch synchronized this throw throws try var void while true false";

const LANGUAGES = {
  python: () =>
    language(
      "and as assert async await break case class continue def del elif else except finally for from " +
        "global if import in is lambda match nonlocal not or pass raise return try while with yield None True False self",
      {
        comment: /#.*/,
        string: either(
          /[rbfuRBFU]{0,2}(?:"""[\s\S]*?(?:"""|$(?![\s\S]))|'''[\s\S]*?(?:'''|$(?![\s\S])))/,
          /\b[rbfuRBFU]{1,2}(?=["'])/,
          DOUBLE,
          SINGLE,
        ),
        call: /@\w[\w.]*/,
      },
    ),
  javascript: () =>
    language(
      "async await break case catch class const continue debugger default delete do else export extends " +
        "finally for from function if implements import in instanceof interface let new null of private public readonly return " +
        "static super switch this throw true try type typeof undefined var void while with yield enum as",
      {
        comment: C_COMMENT,
        string: either(DOUBLE, SINGLE, /`(?:[^`\\]|\\[\s\S])*`?/),
        word: /[A-Za-z_$][\w$]*/,
      },
    ),
  c: () => language(C_WORDS, { comment: C_COMMENT, keyword: /^\s*#\s*\w+/, string: either(DOUBLE, SINGLE) }),
  cpp: () =>
    language(
      `${C_WORDS} class namespace template typename public private protected virtual override new delete this ` +
        "using try catch throw nullptr constexpr noexcept operator friend concept requires co_await co_return",
      {
        comment: C_COMMENT,
        keyword: /^\s*#\s*\w+/,
        string: either(DOUBLE, SINGLE),
      },
    ),
  java: () =>
    language(JAVA_WORDS, { comment: C_COMMENT, string: either(/"""[\s\S]*?"""/, DOUBLE, SINGLE), call: /@\w+/ }),
  csharp: () =>
    language(
      `${JAVA_WORDS} namespace using string object get set async await out ref in is as readonly sealed ` +
        "override virtual internal struct foreach yield where select decimal",
      {
        comment: C_COMMENT,
        string: either(/[$@]+"[^"\n]*"/, DOUBLE, SINGLE),
      },
    ),
  kotlin: () =>
    language(`${JAVA_WORDS} fun val when object companion data is in by override open sealed suspend`, {
      comment: C_COMMENT,
      string: either(/"""[\s\S]*?"""/, DOUBLE, SINGLE),
      call: /@\w+/,
    }),
  swift: () =>
    language(
      "func let var if else guard for in while repeat switch case default return struct class enum protocol " +
        "extension import init self Self nil true false try catch throw throws async await private public static where is as",
      {
        comment: C_COMMENT,
        string: DOUBLE,
        call: /@\w+/,
      },
    ),
  go: () =>
    language(
      "break case chan const continue default defer else fallthrough for func go goto if import interface map " +
        "package range return select struct switch type var nil true false string int error bool byte float64 any",
      {
        comment: C_COMMENT,
        string: either(DOUBLE, SINGLE, /`[^`]*`?/),
      },
    ),
  rust: () =>
    language(
      "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod " +
        "move mut pub ref return self Self static struct super trait true type unsafe use where while",
      {
        comment: C_COMMENT,
        string: either(DOUBLE, /'(?:[^'\\\n]|\\.)'/),
        call: /\w+!(?=[([{])/,
      },
    ),
  php: () =>
    language(
      "abstract array as break case catch class const continue default do echo else elseif extends final fn for " +
        "foreach function global if implements interface namespace new null private protected public return static switch this " +
        "throw true false try use while",
      {
        comment: either(C_COMMENT, HASH_COMMENT),
        string: either(DOUBLE, SINGLE),
        type: /\$\w+/,
      },
    ),
  ruby: () =>
    language(
      "alias and begin break case class def do else elsif end ensure false for if in module next nil not or " +
        "require rescue return self super then true unless until when while yield",
      {
        comment: HASH_COMMENT,
        string: either(DOUBLE, SINGLE, /(?<!:):\w+/),
      },
    ),
  lua: () =>
    language(
      "and break do else elseif end false for function goto if in local nil not or repeat return then true until while",
      {
        comment: /--\[\[[\s\S]*?(?:\]\]|$(?![\s\S]))|--.*/,
        string: either(DOUBLE, SINGLE),
      },
    ),
  bash: () =>
    language(
      "if then else elif fi for in do done while until case esac function return exit export local set source " +
        "echo cd sudo",
      {
        comment: HASH_COMMENT,
        string: either(/"(?:[^"\\]|\\[\s\S])*"?/, /'[^']*'?/),
        type: /\$\{?\w+\}?/,
        number: /(?<=\s)--?[a-zA-Z][\w-]*/,
        word: /[A-Za-z_][\w-]*/,
      },
    ),
  sql: () => {
    const keywords =
      "select from where and or not in is null as join left right inner outer full on group by order having limit " +
      "offset insert into values update set delete create table index view drop alter add primary key foreign references unique " +
      "distinct union all case when then else end with like between exists asc desc int integer text varchar count sum avg";
    return language(`${keywords} ${keywords.toUpperCase()}`, {
      comment: /--.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/,
      string: /'(?:[^']|'')*'?/,
    });
  },
  json: () => language("true false null", { type: /"(?:[^"\\\n]|\\.)*"(?=\s*:)/, comment: C_COMMENT, string: DOUBLE }),
  yaml: () =>
    language("true false null yes no", {
      comment: /(?<!\S)#.*/,
      type: /^[ \t-]*[\w."'/-]+(?=\s*:(?:\s|$))/,
      string: either(DOUBLE, SINGLE),
    }),
  toml: () =>
    language("true false", {
      comment: /#.*/,
      type: /^\s*\[.*\]|^\s*[\w."-]+(?=\s*=)/,
      string: either(/"""[\s\S]*?"""/, DOUBLE, SINGLE),
    }),
  html: () =>
    language("", {
      comment: /<!--[\s\S]*?(?:-->|$(?![\s\S]))/,
      keyword: /<\/?[A-Za-z][\w:-]*|\/?>/,
      string: either(/(?<==)"[^"]*"?/, /(?<==)'[^']*'?/),
      type: /(?<=\s)[\w:@-]+(?==)/,
      number: /&#?\w+;/,
      word: /\b\B/,
    }),
  css: () =>
    language("important media supports import from to and not", {
      comment: /\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/,
      string: either(DOUBLE, SINGLE),
      keyword: /@[\w-]+/,
      type: /[\w-]+(?=\s*:\s)|--[\w-]+/,
      number: /#[\da-fA-F]{3,8}\b|(?<![\w-])-?\d*\.?\d+(?:[a-z]+|%)?/,
      word: /[A-Za-z_][\w-]*/,
    }),
  diff: () =>
    language("", {
      comment: /^(?:diff|index|---|\+\+\+|@@).*/,
      add: /^\+.*/,
      remove: /^-.*/,
      number: /\b\B/,
      word: /\b\B/,
    }),
};

const ALIASES = {
  py: "python",
  python3: "python",
  js: "javascript",
  jsx: "javascript",
  ts: "javascript",
  tsx: "javascript",
  typescript: "javascript",
  mjs: "javascript",
  h: "c",
  "c++": "cpp",
  cc: "cpp",
  cxx: "cpp",
  hpp: "cpp",
  cuda: "cpp",
  "c#": "csharp",
  cs: "csharp",
  kt: "kotlin",
  golang: "go",
  rs: "rust",
  rb: "ruby",
  sh: "bash",
  shell: "bash",
  zsh: "bash",
  console: "bash",
  dockerfile: "bash",
  makefile: "bash",
  jsonc: "json",
  json5: "json",
  jsonl: "json",
  yml: "yaml",
  ini: "toml",
  xml: "html",
  svg: "html",
  vue: "html",
  scss: "css",
  patch: "diff",
};

const made = new Map();

/** The description of a language by the name a fence gives; undefined for one that is not known. */
export function languageOf(name) {
  const key = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (!Object.hasOwn(LANGUAGES, key)) return undefined;
  if (!made.has(key)) made.set(key, LANGUAGES[key]());
  return made.get(key);
}
