# ruff: noqa: E501  (a pattern that is broken into lines is harder to read than a long line)
"""What other programs leave in answers: further turns, echoed prompts, unfilled templates, error
pages, words of a chat page's buttons, escapes, markup, wrappers, encoded files.

Patterns for a linear-time engine, and the words of a request by which such an answer was asked for;
`answers` judges by them.
"""

# Code, inline code included; unlike in Markdown, an open block goes to the end.
CODE = r"(?s)```.*?(?:```|$)|`[^`\n]*`"

_LINE = r"(?m)^[ \t]*(?:\*\*|#{1,4} ?)?"
USER = _LINE + r"(?:Human|User|USER|HUMAN|用户|Benutzer|Utilisateur|Usuario)(?:\*\*)?[:：]"
ASSISTANT = (
    _LINE + r"(?:Assistant|ASSISTANT|AI|Bot|GPT|ChatGPT|助手|Assistent|Asistente)(?:\*\*)?[:：]"
)
NEXT_TURN = (
    r"(?s)\n\n(?:Human|### (?:Instruction|Human|User)): ?\S|\n### Instruction:\s*\n"
    r"|\n#{1,4} ?(?:Instruction|User|Human):.*\n#{1,4} ?(?:Response|Assistant|Output):"
    r"|\n(?:\*\*)?(?:Human|User|USER|HUMAN|用户|Benutzer|Utilisateur|Usuario)(?:\*\*)?[:：].{1,2000}?"
    r"\n(?:\*\*)?(?:Assistant|ASSISTANT|AI|Bot|GPT|ChatGPT|助手|Assistent|Asistente)(?:\*\*)?[:：]"
)
TALK = (
    *(
        "dialog",
        "conversation",
        "chat",
        "transcript",
        "script",
        "prompt",
        "role-play",
        "roleplay",
        "role play",
    ),
    *(
        "interview",
        " bot",
        "human:",
        "user:",
        "assistant",
        "few-shot",
        "fine-tun",
        "finetun",
        "instruction",
        "对话",
    ),
    *("example", "log", "story", "act as", "simulat"),
)
_VARIABLES = (
    r"(?:question|answer|(?:first|last|full|user|customer|company|product|recipient|sender|client|employee|brand)?_?name"
    r"|user|user_?input|input|output|context|prompt|instructions?|response|text|topic|date|city|customer|company|product"
    r"|email|title|query|message|content|language|document|history|chat_history|passage|sentence)"
)
PLACEHOLDER = (
    rf"\{{\{{ ?[\w.]{{1,40}} ?\}}\}}|\{{% ?\w[^%\n]{{0,80}}%\}}|[$#]\{{{_VARIABLES}\}}|\{{{_VARIABLES}\}}"
    r"|\[(?:INSERT|FILL IN|ENTER)(?-u:\b)[^\]\n]{0,40}\]|<(?:your|insert|the) (?:\w+ ){0,3}(?:answer|response|text|name|here)>"
    r"|(?i:lorem ipsum dolor)"
)
# In a web address or a path, braces are parameters.
PARAMETER = r"\S*[/=&]\{\w+\}\S*"
NO_ANSWER = (
    r"(?i)^\W{0,3}(?:undefined|nan|nil|none|null|todo|tbd|tba|fixme|xxx+|placeholder|\[object object\]|no (?:response|answer|output)"
    r"|(?:insert|your|write your|the) (?:answer|response|text)(?: goes)?(?: here)?|(?:answer|response|text) here|#n/a|#ref!|#value!|#name\?"
    r"|<no ?value>|<(?:answer|response|output|text)>|\{\}|\[\]|test|asdf\w*|lorem ipsum)\W{0,3}$"
)
TEMPLATES = (
    *(
        "template",
        "placeholder",
        "variable",
        "{",
        "<",
        "[insert",
        "lorem",
        "jinja",
        "handlebars",
        "mustache",
        "vue",
    ),
    *(
        "angular",
        "liquid",
        "html",
        "letter",
        "email",
        "e-mail",
        "draft",
        "cover",
        "contract",
        "f-string",
        "format",
    ),
    *(
        "string",
        "code",
        "script",
        "function",
        "prompt",
        "website",
        "web page",
        "latex",
        "github",
        "react",
        "django",
    ),
    *(
        "flask",
        "php",
        "python",
        "java",
        "regex",
        "config",
        "yaml",
        "helm",
        "ansible",
        "docker",
        "bash",
        "route",
        "api",
    ),
)
CODE_LIKE = r"(?m)^\s*(?:def |class |import |from \w+ import|function |const |let |var |public |return |#include|<\w+|\{%|print\(|console\.)|[;{]\s*$|=>|(?-u:\b)f[\"']"
_STATUS = (
    r"(?:bad gateway|internal server error|service (?:temporarily )?unavailable|gateway time-?out|too many requests"
    r"|forbidden|unauthorized|not found|bad request|request time-?out|web server is down|connection timed out|payload too large)"
)
_SERVICE = (
    r"(?:rate limit (?:exceeded|reached)|you(?:'ve| have) (?:reached|exceeded|hit) (?:your|the|our) \w*\s?(?:rate |usage |message )?(?:limit|quota)"
    r"|you exceeded your current quota|too many requests in \d|network error\W*$|something went wrong\. if this issue persists"
    r"|something went wrong[.!]? (?:please )?(?:try again|refresh|reload)|an error occurred\. (?:either the engine|if this issue)"
    r"|an? (?:unexpected |internal )?error (?:has )?occurred\W*(?:$|please try|try again|while (?:processing|generating))"
    r"|there was an error generating a response|error (?:in|while) (?:generating|message stream|body stream)"
    r"|the server (?:had an error|is (?:currently )?overloaded)|that model is currently overloaded"
    r"|the (?:model|engine) is (?:currently )?overloaded|this model's maximum context length|(?:request|connection) timed out\W*$"
    r"|unable to load conversation|conversation not found\W*$|incorrect api key provided|invalid api key\W*$"
    r"|our systems have detected unusual|we(?:'ve| have) detected (?:suspicious|unusual)|this content may violate our"
    r"|please enable (?:javascript|cookies)|(?:checking|verifying) (?:if the site|you are human|your browser)|just a moment\.\.\."
    r"|access to this page has been denied|verify (?:that )?you are (?:a )?human|attention required! \| cloudflare"
    r"|(?:please )?(?:log|sign) in to (?:continue|your account|view|see)|your session has expired|session expired\W*$"
    r"|error code:? \d{3,4}(?-u:\b)|ray id: [0-9a-f]{8}|performance & security by cloudflare)"
)
ERROR_PAGE = (
    rf"(?is)^\s*(?:<!doctype[^>]*>\s*)?<html.{{0,400}}(?:(?-u:\b)[45]\d\d(?-u:\b)\W{{0,3}}{_STATUS}|{_SERVICE})"
    rf"|^\W{{0,4}}(?:http(?:/\d(?:\.\d)?)? |http ?error:? |error:? |status:? |status code:? |code:? )*(?:[45]\d\d)?[ :-]*{_STATUS}\W*(?:$|\n)"
    rf"|^\W{{0,4}}(?:error:? )?{_SERVICE}"
    r'|^\s*\{\s*"(?:error|errors|detail)"\s*:'
    r"|^\W{0,2}(?:openai\.)?(?:error\.)?(?:rate ?limit|api|apiconnection|invalidrequest|authentication|timeout|serviceunavailable|connection|http|json(?:decode)?)error(?-u:\b)[:(]"
    r"|^traceback \(most recent call last\):"
)
# One of these is in whatever the two patterns match.
ERROR_WORDS = (
    *(
        "error",
        "gateway",
        "unavailable",
        "too many requests",
        "limit",
        "quota",
        "went wrong",
        "overloaded",
    ),
    *(
        "forbidden",
        "unauthorized",
        "not found",
        "bad request",
        "timed out",
        "time-out",
        "timeout",
        "is down",
    ),
    *(
        "too large",
        "maximum context",
        "load conversation",
        "api key",
        "detected",
        "may violate",
        "javascript",
    ),
    *(
        "cookies",
        "checking",
        "verifying",
        "moment...",
        "denied",
        "are human",
        "a human",
        "cloudflare",
    ),
    *("log in to", "sign in to", "expired", "ray id", "detail", "traceback"),
)
# What a chat page appends to an answer that broke off.
BROKEN_OFF = (
    r"(?i)\n\W*(?:network error|something went wrong\. if this issue persists[^\n]{0,160}"
    r"|there was an error generating a response|error in (?:message|body) stream|an error occurred\. if this issue persists[^\n]{0,160})\W*$"
)
ABOUT_ERRORS = (
    "error",
    "http",
    "status",
    "502",
    "503",
    "500",
    "404",
    "429",
    "exception",
    "json",
    "api",
    "fail",
    "crash",
    "page",
    "log in",
    "login",
    "captcha",
    "bug",
    "debug",
    "message",
    "traceback",
    "translate",
)
INTERFACE = (
    r"(?m)^[ \t]*(?:[A-Za-z][\w+#./-]{0,15} ?)?Copy code[ \t]*(?:$|[^\w\s.,'])|^[ \t]*(?:[a-z+#]{1,12})Copy code"
    r"|^[ \t]*(?:Regenerate response|Continue generating|Stop generating|Share Prompt|Was this response better or worse\?.*|BetterWorseSame)[ \t]*$"
    r"|^[ \t]*\d{1,2} ?/ ?\d{1,2}[ \t]*$|ChatGPT (?:\w+ \d+ Version|may produce inaccurate information)|Free Research Preview\. "
    r"|【\d+(?::\d+)?†[^】\n]*】|\[oaicite:|Powered by ShareGPT|^[ \t]*Was this translation helpful\?"
)
_ENTITY = r"&(?:nbsp|lt|gt|amp|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6}|[lr][sd]quo|[mn]dash|hellip|[aeiouAEIOU](?:uml|acute|grave|circ)|szlig|ccedil|ntilde|copy|bull|laquo|raquo|middot|euro);"
ESCAPES = (
    r"""[\p{L}\d)"'”»][.!?:…,;]["'”»)]?\\n(?:\\n|[ ]?[\p{L}\d*•-])|[。！？…：]\\n|[.!?:]\\n\\n|\p{L}{2}\\n\\n[\p{Lu}\d*-]"""
    rf"|(?:\\u[0-9a-fA-F]{{4}}[\s,.]?){{3}}|\p{{L}}\\u[0-9a-fA-F]{{4}}|(?:{_ENTITY}\s?){{3}}|\p{{L}}{_ENTITY}|{_ENTITY}\p{{L}}|&lt;/?[a-z]{{1,10}} ?/?&gt;"
    r"|(?:\\x[0-9a-fA-F]{2}){3}"
    # Prose for a web address or for a mail: six such escapes without a part of an address between.
    r"|(?:^|\s)[^\s/:?&=%]*(?:%[0-9A-F]{2}[^\s/:?&=%]*){6}|=E2=80=[0-9A-F]{2}|\p{L}=C3=[0-9A-F]{2}|(?:=[0-9A-F]{2}){4}"
)
ABOUT_MARKUP = (
    *(
        "html",
        "xml",
        "<",
        "markup",
        "web",
        "page",
        " tag",
        "css",
        "svg",
        "code",
        "template",
        "email",
        "e-mail",
        "entit",
    ),
    *(
        "escape",
        "unicode",
        "json",
        "newline",
        "string",
        "&",
        "\\",
        "javascript",
        "python",
        "function",
        "script",
        "regex",
        "url",
    ),
    *(
        "encod",
        "bash",
        "terminal",
        "latex",
        "print",
        "program",
        "java",
        "api",
        "react",
        "website",
        "blog",
        "component",
    ),
)
MARKUP = r"(?is)^\s*<(?:div|p|span|ul|ol|table|h[1-6]|section|article|body|html|br|!doctype html)(?-u:\b)[^>]{0,200}>.*</?(?:div|p|span|ul|ol|table|h[1-6]|section|article|body|html|script|br)\s*/?>\s*$"
WRAPPED = r'(?s)^\s*\{\s*"(?:answer|response|content|output|text|message|reply|role|completion|result|assistant|final_answer)"\s*:\s*".*\}\s*$'
ABOUT_JSON = (
    "json",
    "format",
    "schema",
    "api",
    "extract",
    "structured",
    "key",
    "field",
    "dict",
    "object",
    "{",
    "yaml",
    "return",
)
_DATA_URI = r"data:[a-z]+/[\w.+-]{1,40};base64,[A-Za-z0-9+/=\s]{100,}"
ENCODED = rf"{_DATA_URI}|[A-Za-z0-9+/]{{300,}}={{0,2}}|(?:[A-Za-z0-9+/]{{60,80}}\r?\n){{6,}}"
EMBEDDED = r"""(?:\]\(|src=["']?|href=["']?|url\(["']?)\s*data:[^\s"')]*"""
ENCODED_WORDS = (
    "base64",
    "encode",
    "decode",
    "image",
    "picture",
    "data uri",
    "sequence",
    "dna",
    "certificate",
    "key",
    "cipher",
)
FENCE = r"(?m)^[ \t]*(?:```|~~~)"

# One of these is in whatever the patterns match; they are quickly looked for.
TURN_WORDS = (
    *(
        "\nHuman:",
        "\nUser:",
        "\n### ",
        "\n**User",
        "\n**Human",
        "\n用户",
        "\nBenutzer:",
        "\nUtilisateur",
    ),
    *("\nUsuario:", "\n#User", "\n# "),
)
PLACEHOLDER_WORDS = (
    *("{", "[insert", "[fill in", "[enter", "<your ", "<insert ", "<the ", "lorem ipsum"),
)
INTERFACE_WORDS = (
    *("copy code", "regenerate response", "continue generating", "stop generating", "share prompt"),
    *(
        "better or worse",
        "betterworsesame",
        "research preview",
        "chatgpt",
        "sharegpt",
        "translation helpful",
        "†",
        "oaicite",
    ),
    *(f"{number}{slash}" for number in range(10) for slash in ("/", " /")),
)
ESCAPE_WORDS = (
    *(
        "\\n",
        "\\u",
        "\\x",
        "&#",
        "&nbsp;",
        "&lt;",
        "&gt;",
        "&amp;",
        "&quot;",
        "&apos;",
        "quo;",
        "dash;",
    ),
    *(
        "uml;",
        "acute;",
        "grave;",
        "circ;",
        "hellip;",
        "szlig;",
        "cedil;",
        "tilde;",
        "bull;",
        "dot;",
        "euro;",
        "%20",
        "%2c",
        "=e2=",
        "=c3=",
    ),
)
