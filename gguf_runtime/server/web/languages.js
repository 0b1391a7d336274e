// How languages are written, as far as colours need it: keywords, and patterns by kind, tried in the order given.

const NUMBER = /(?<![\w.])(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?)\w*/;
const WORD = /[A-Za-z_]\w*/;
const NOTHING = /\b\B/;
const DOUBLE = /"(?:[^"\\\n]|\\.)*"?/;
const SINGLE = /'(?:[^'\\\n]|\\.)*'?/;
const QUOTED = either(DOUBLE, SINGLE);
const TRIPLE = either(/"""[\s\S]*?(?:"""|$(?![\s\S]))/, QUOTED);
const C_COMMENT = /\/\/.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/;
const HASH_COMMENT = /(?<![\w$])#.*/;
const ANNOTATION = /@\w+/;
const DIRECTIVE = /^\s*#\s*\w+/;

function either(...patterns) {
  return new RegExp(patterns.map(({ source }) => source).join("|"));
}

const C_WORDS = `
  if else for while do switch case default break continue return goto sizeof typedef struct union enum static const
  extern inline void int char short long float double unsigned signed bool auto volatile true false NULL`;
const JAVA_WORDS = `
  abstract assert boolean break byte case catch char class const continue default do double else enum extends final
  finally float for if implements import instanceof int interface long native new null package private protected public
  record return short static super switch synchronized this throw throws try var void while true false`;
const SQL_WORDS = `
  select from where and or not in is null as join left right inner outer full on group by order having limit offset
  insert into values update set delete create table index view drop alter add primary key foreign references unique
  distinct union all case when then else end with like between exists asc desc int integer text varchar count sum avg`;

const LANGUAGES = {
  python: {
    keywords: `
      and as assert async await break case class continue def del elif else except finally for from global if import in
      is lambda match nonlocal not or pass raise return try while with yield None True False self`,
    comment: /#.*/,
    string: either(/\b[rbfuRBFU]{1,2}(?=["'])/, /'''[\s\S]*?(?:'''|$(?![\s\S]))/, TRIPLE),
    call: /@\w[\w.]*/,
  },
  javascript: {
    keywords: `
      as async await break case catch class const continue debugger default delete do else enum export extends finally
      for from function if implements import in instanceof interface let new null of private public readonly return
      static super switch this throw true false try type typeof undefined var void while with yield`,
    comment: C_COMMENT,
    string: either(QUOTED, /`(?:[^`\\]|\\[\s\S])*`?/),
    word: /[A-Za-z_$][\w$]*/,
  },
  c: { keywords: C_WORDS, comment: C_COMMENT, keyword: DIRECTIVE, string: QUOTED },
  cpp: {
    keywords: `${C_WORDS}
      class namespace template typename public private protected virtual override new delete this using try catch throw
      nullptr constexpr noexcept operator friend concept requires co_await co_return`,
    comment: C_COMMENT,
    keyword: DIRECTIVE,
    string: QUOTED,
  },
  java: { keywords: JAVA_WORDS, comment: C_COMMENT, string: TRIPLE, call: ANNOTATION },
  csharp: {
    keywords: `${JAVA_WORDS}
      namespace using string object get set async await out ref in is as readonly sealed override virtual internal
      struct foreach yield where select decimal`,
    comment: C_COMMENT,
    string: either(/[$@]+"[^"\n]*"/, QUOTED),
  },
  kotlin: {
    keywords: `${JAVA_WORDS} fun val when object companion data is in by override open sealed suspend`,
    comment: C_COMMENT,
    string: TRIPLE,
    call: ANNOTATION,
  },
  swift: {
    keywords: `
      func let var if else guard for in while repeat switch case default return struct class enum protocol extension
      import init self Self nil true false try catch throw throws async await private public static where is as`,
    comment: C_COMMENT,
    string: DOUBLE,
    call: ANNOTATION,
  },
  go: {
    keywords: `
      break case chan const continue default defer else fallthrough for func go goto if import interface map package
      range return select struct switch type var nil true false string int error bool byte float64 any`,
    comment: C_COMMENT,
    string: either(QUOTED, /`[^`]*`?/),
  },
  rust: {
    keywords: `
      as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut
      pub ref return self Self static struct super trait true type unsafe use where while`,
    comment: C_COMMENT,
    string: either(DOUBLE, /'(?:[^'\\\n]|\\.)'/),
    call: /\w+!(?=[([{])/,
  },
  php: {
    keywords: `
      abstract array as break case catch class const continue default do echo else elseif extends final fn for foreach
      function global if implements interface namespace new null private protected public return static switch this
      throw true false try use while`,
    comment: either(C_COMMENT, HASH_COMMENT),
    string: QUOTED,
    type: /\$\w+/,
  },
  ruby: {
    keywords: `
      alias and begin break case class def do else elsif end ensure false for if in module next nil not or require
      rescue return self super then true unless until when while yield`,
    comment: HASH_COMMENT,
    string: either(QUOTED, /(?<!:):\w+/),
  },
  lua: {
    keywords: `
      and break do else elseif end false for function goto if in local nil not or repeat return then true until while`,
    comment: /--\[\[[\s\S]*?(?:\]\]|$(?![\s\S]))|--.*/,
    string: QUOTED,
  },
  bash: {
    keywords: `
      if then else elif fi for in do done while until case esac function return exit export local set source echo cd
      sudo`,
    comment: HASH_COMMENT,
    string: /"(?:[^"\\]|\\[\s\S])*"?|'[^']*'?/,
    type: /\$\{?\w+\}?/,
    number: /(?<=\s)--?[a-zA-Z][\w-]*/,
    word: /[A-Za-z_][\w-]*/,
  },
  sql: {
    keywords: SQL_WORDS + SQL_WORDS.toUpperCase(),
    comment: /--.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/,
    string: /'(?:[^']|'')*'?/,
  },
  json: { keywords: "true false null", type: /"(?:[^"\\\n]|\\.)*"(?=\s*:)/, comment: C_COMMENT, string: DOUBLE },
  yaml: {
    keywords: "true false null yes no",
    comment: /(?<!\S)#.*/,
    type: /^[ \t-]*[\w."'/-]+(?=\s*:(?:\s|$))/,
    string: QUOTED,
  },
  toml: { keywords: "true false", comment: /#.*/, type: /^\s*\[.*\]|^\s*[\w."-]+(?=\s*=)/, string: TRIPLE },
  html: {
    keywords: "",
    comment: /<!--[\s\S]*?(?:-->|$(?![\s\S]))/,
    keyword: /<\/?[A-Za-z][\w:-]*|\/?>/,
    string: /(?<==)(?:"[^"]*"?|'[^']*'?)/,
    type: /(?<=\s)[\w:@-]+(?==)/,
    number: /&#?\w+;/,
    word: NOTHING,
  },
  css: {
    keywords: "important media supports import from to and not",
    comment: /\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))/,
    string: QUOTED,
    keyword: /@[\w-]+/,
    type: /[\w-]+(?=\s*:\s)|--[\w-]+/,
    number: /#[\da-fA-F]{3,8}\b|(?<![\w-])-?\d*\.?\d+(?:[a-z]+|%)?/,
    word: /[A-Za-z_][\w-]*/,
  },
  diff: {
    keywords: "",
    comment: /^(?:diff|index|---|\+\+\+|@@).*/,
    add: /^\+.*/,
    remove: /^-.*/,
    number: NOTHING,
    word: NOTHING,
  },
};

const NAMES = {
  python: "py python3",
  javascript: "js jsx ts tsx mjs typescript",
  c: "h",
  cpp: "c++ cc cxx hpp cuda",
  csharp: "c# cs",
  kotlin: "kt",
  go: "golang",
  rust: "rs",
  ruby: "rb",
  bash: "sh shell zsh console dockerfile makefile",
  json: "jsonc json5 jsonl",
  yaml: "yml",
  toml: "ini",
  html: "xml svg vue",
  css: "scss",
  diff: "patch",
};

const words = (text) => text.split(/\s+/).filter(Boolean);
const known = new Map(Object.keys(LANGUAGES).map((name) => [name, name]));
for (const [name, others] of Object.entries(NAMES)) for (const other of words(others)) known.set(other, name);

const made = new Map();

/** What to scan a language with, by the name that a fence gives; undefined for one that is not known. */
export function languageOf(name) {
  const key = known.get(name);
  if (key && !made.has(key)) made.set(key, compile(LANGUAGES[key]));
  return made.get(key);
}

function compile({ keywords, ...patterns }) {
  const whole = { number: NUMBER, word: WORD, ...patterns };
  const kinds = [...Object.keys(patterns), ...Object.keys(whole).filter((kind) => !(kind in patterns))];
  const pattern = kinds.map((kind) => `(?<${kind}>${whole[kind].source})`).join("|");
  return { kinds, keywords: new Set(words(keywords)), pattern: new RegExp(pattern, "gm") };
}
