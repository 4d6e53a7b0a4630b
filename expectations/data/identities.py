# ruff: noqa: E501  (a pattern that is broken into lines is harder to read than a long line)
"""Answers that say which model or whose they are, in several languages.

That is: the writer speaks of itself as a model or an AI, of who made or trained it, of what it was
trained on or until when. Texts about models, and people with such names or professions, are not
meant. Every pattern is for text without case, with single spaces and straight apostrophes.
"""

from typing import TYPE_CHECKING

from retune.candidates import confirmed

if TYPE_CHECKING:
    import polars as pl

MAKERS = (
    r"(?:openai|open ai|anthropic|google|deepmind|meta ai|meta|alibaba|deepseek|mistral(?: ai)?|microsoft|xai"
    r"|moonshot(?: ai)?|zhipu|baidu|cohere|stability ai|nvidia|tencent|bytedance|huawei|inflection|ai21|lmsys|eleutherai)"
)
_NAMES = (
    r"(?:chatgpt|chat gpt|gpt-?[345][a-z0-9.-]*|claude|gemini|bard|llama|mistral|mixtral|deepseek|qwen|kimi|grok|copilot"
    r"|bing chat|ernie bot|chatglm|vicuna|openassistant|open assistant|baichuan|internlm|hunyuan|doubao|palm|lamda)"
)
_KIND = (
    r"(?:ai|a\.i\.|artificial intelligence|(?:large )?language model|llm|chatbot|chat bot|machine learning model"
    r"|text-based (?:ai|model|system|assistant)|virtual assistant|digital assistant|computer program|neural network"
    r"|language ai|generative model)"
)
_REST = r"(?: (?:language|text|chat|based|trained))*(?: (?:model|assistant|system|program|chatbot|bot|ai))*"
_ENGLISH = (
    rf"\bas an? (?:[a-z0-9-]+ ){{0,3}}?{_KIND}{_REST}(?: (?:called|named) [a-zß-ÿ]+)?(?:,? (?:developed|created|trained|designed|made|built)"
    r" [^.!?\"]{0,60})?,? (?:i\b|my\b|it(?:'s| is) (?:not|im|un|beyond|outside))",
    rf"""(?:^|[^"“[a-zß-ÿ]] ?)\b(?:i am|i'm) (?:just |only |actually |also |simply |merely |still )?(?:an? |the )(?:[a-z0-9-]+ ){{0,3}}?{_KIND}{_REST}"""
    r"(?:[.;!)]|,(?: (?:so|and|but|i|not|which|trained|created|developed|designed|without|my|here))? ?|$"
    r"| (?:and (?:i|do|don't|my|as|cannot|can't)|trained|developed|created|designed|built|made|that|which|here|so|without|programmed)\b)",
    r"\b(?:my|as of my|of my) (?:last |current |latest )?(?:knowledge|training)(?: data)?(?: (?:cut-? ?off|update)|"
    r" (?:only )?(?:goes up to|ends in|extends|stops)| (?:is|was) (?:limited|based on data|current|last updated|cut off))",
    r"\bas of my (?:last|latest) (?:update|training)",
    rf"\b(?:i|i'm|i am) (?:was |am |have been |been |an? |the |language |large |ai |model |assistant |chatbot |system |[a-z0-9-]+, ?){{1,8}}"
    rf"(?:created|developed|trained|made|built|designed)(?: and [a-zß-ÿ]+)? by (?:the (?:team|company|people|researchers) (?:at |of )?)?{MAKERS}\b",
    rf"\b(?:i am|i'm|my name is|you can call me) (?:also |just |actually |called )?{_NAMES}(?:[,.;!)]| (?:and|by|from|a|an|the|developed|created|trained)\b|$)",
    rf"\bmy (?:creators?|developers?|makers?) (?:at |is |are |, ){{0,2}}{MAKERS}\b",
    r"\bi (?:was|have been|am|'ve been) (?:only |also )?trained (?:on|using|with) (?:an? |the )?(?:[a-z0-9-]+ ){0,3}"
    r"(?:dataset|corpus|data|texts?|amounts?|range|internet)",
    r"\bmy (?:behavior|responses?|purpose|role|function|abilit[a-zß-ÿ]+|capabilit[a-zß-ÿ]+) (?:as|is that of) an? (?:[a-zß-ÿ]+ )?"
    + _KIND,
    r"\bthat was chosen by my creators\b|\bmy creators at\b",
)
_DE = r"(?:ki|künstliche intelligenz|(?:großes |ki-)?sprachmodell|ki-[a-zß-ÿ]+|textbasierte[a-zß-ÿ]* (?:ki|system|modell|assistent)[a-zß-ÿ]*|chatbot)"
_FR = r"(?:ia|intelligence artificielle|modèle (?:de langage|linguistique|d'ia)|assistant (?:ia|virtuel)|chatbot)"
_ES = r"(?:ia|inteligencia artificial|modelo de (?:lenguaje|ia|idioma|inteligencia)|asistente (?:de ia|virtual)|chatbot)"
_IT = r"(?:ia|ai|intelligenza artificiale|modello (?:di linguaggio|linguistico|di ia|ai)|assistente (?:ai|ia|virtuale)|chatbot)"
_PT = r"(?:ia|inteligência artificial|modelo de (?:linguagem|ia)|assistente (?:de ia|virtual)|chatbot)"
_OTHERS = (
    rf"\bals (?:ein |eine |rein |reine |reines )?(?:[a-zß-ÿ]+ )?{_DE}\b,?(?: [^.!?\"„]{{0,40}}?)?\b(?:ich|mir|mein[a-zß-ÿ]*|kein[a-zß-ÿ]*|nicht)\b",
    rf"\bich bin (?:nur |lediglich |bloß )?(?:ein |eine )(?:[a-zß-ÿ]+ ){{0,2}}{_DE}\b",
    rf"\ben tant qu(?:e |')(?:une? )?(?:[a-zß-ÿ]+ )?{_FR}\b",
    rf"\bje suis (?:juste |seulement |simplement )?une? (?:[a-zß-ÿ]+ ){{0,2}}{_FR}\b",
    rf"(?:^|[.!?¡,:] ?)(?:lo siento,? |claro,? |ya que,? )?(?:pero )?como (?:un |una )?(?:[a-zß-ÿ]+ )?{_ES}\b",
    rf"\b(?:soy|siendo) (?:solo |sólo |simplemente |solamente )?(?:un |una )(?:[a-zß-ÿ]+ )?{_ES}\b",
    rf"(?:^|[.!?,:] ?)(?:ma )?come (?:un |una |un')?(?:[a-zß-ÿ]+ )?{_IT}\b",
    rf"\bsono (?:solo |semplicemente |soltanto )?(?:un |una |un')(?:[a-zß-ÿ]+ )?{_IT}\b",
    rf"(?:^|[.!?,:] ?)(?:mas )?como (?:um |uma )?(?:[a-zß-ÿ]+ )?{_PT}\b",
    rf"\bsou (?:apenas |só |somente )?(?:um |uma )(?:[a-zß-ÿ]+ )?{_PT}\b",
    r"(?:作为|作為)(?:一[个個名款种種位])?[^，。,「“\"]{0,12}(?:人工智能|人工智慧|ai|语言模型|語言模型|大模型|聊天机器人|聊天機器人)[^。「“\"]{0,16}(?:我|无法|無法|不能|没有|沒有)",
    r"我(?:只|仅|僅)?(?:是|只是)(?:一[个個名款种種位])?[^，。,「“\"]{0,14}(?:人工智能|人工智慧|ai|语言模型|語言模型|大模型|聊天机器人|聊天機器人)(?:助手|模型|程序|系统|系統)?(?:[，。,！]|$)",
    r"我(?:是|叫)(?:chatgpt|文心一言|通义千问|通義千問|豆包|kimi|deepseek|智谱清言|讯飞星火|qwen|混元|claude|gpt)",
    r"我[^。「“\"]{0,20}由 ?(?:openai|阿里|百度|深度求索|月之暗面|智谱|字节|腾讯|anthropic|谷歌|google)[^。]{0,10}(?:开发|訓練|训练|研发|创建|打造|開發)",
    r"(?:截至)?我的(?:知识|知識|训练数据|訓練數據)[^。]{0,8}(?:截至|截止|更新)",
    r"(?:ai|人工知能|言語モデル)(?:言語モデル|アシスタント|モデル)?(?:として|なので|であるため|ですので)",
    r"私は[^。「]{0,20}(?:ai|人工知能|言語モデル|チャットボット|アシスタント)(?:です|であり|なので|ですので)",
    r"(?:openai|グーグル|google|anthropic)(?:によって|が|に)(?:開発|訓練|作成|トレーニング)",
    r"(?:^|[^а-яё])как (?:большая |ии-)?(?:искусственный интеллект|ии|языковая модель|нейросеть|нейронная сеть|виртуальный (?:ассистент|помощник)|ассистент|модель искусственного интеллекта)[^.!?«\"]{0,40}[ ,](?:я |мне |у меня )",
    r"(?:^|[.!?,] )я (?:всего лишь |просто |только |[—–-] ?){0,2}(?:большая )?(?:языковая модель|искусственный интеллект|ии|нейросеть|чат-бот|виртуальный (?:ассистент|помощник))(?:[^а-яё]|$)",
    r"(?:ai|인공지능|언어 모델)(?: 언어 모델)?(?:로서|이기 때문에|이므로)",
)
# Names that are no persons', so that "je suis Claude" is nobody's mistake.
_ONLY_MODELS = (
    r"(?:chatgpt|chat gpt|gpt-?[345][a-z0-9.-]*|chatglm|deepseek|qwen|mixtral|vicuna|openassistant)"
)
_NAMED = (
    rf"\b(?:ich bin|ich heiße|mein name ist|je suis|je m'appelle|soy|me llamo|mi nombre es|(?:io )?sono|mi chiamo|(?:eu )?sou(?: o| a)?|ik ben|jag är|jestem) {_ONLY_MODELS}\b",
    rf"(?:^|[^а-яё])(?:я|меня зовут) ?[,—–-]? ?{_ONLY_MODELS}\b",
    rf"(?:私|僕)は ?{_ONLY_MODELS}|저는 ?{_ONLY_MODELS}",
    rf"\bich (?:bin|wurde)\b[^.!?\"„]{{0,60}} von {MAKERS} (?:entwickelt|trainiert|erstellt|geschaffen|erschaffen|entwickelte[sr]?|trainierte[sr]?)\b",
    rf"\bje (?:suis|ai été)\b[^.!?\"«]{{0,80}}(?:entraîné|développé|créé|conçu)e? par {MAKERS}\b",
    rf"\b(?:soy|fui|he sido)\b[^.!?\"«]{{0,80}}(?:entrenad|desarrollad|cread)[oa] por {MAKERS}\b",
    rf"\bsono(?: stato| stata)?\b[^.!?\"«]{{0,80}}(?:addestrat|sviluppat|creat)[oa] da {MAKERS}\b",
    rf"\b(?:sou|fui)\b[^.!?\"«]{{0,80}}(?:treinad|desenvolvid|criad)[oa] (?:por|pela) {MAKERS}\b",
    rf"(?:^|[^а-яё])я[ ,—–-][^.!?\"«]{{0,60}}(?:обучен|создан|разработан)[а-яё]* (?:компанией )?{MAKERS}\b",
)
# The boundaries are ASCII: those of Unicode make the engine slow where a text is not ASCII.
PATTERN = "|".join((*_ENGLISH, *_OTHERS, *_NAMED)).replace(r"\b", r"(?-u:\b)")
# One of these is in whatever the patterns match.
_WORDS = (
    *(
        "language model",
        "artificial intelligence",
        "text-based",
        " ai",
        "a.i.",
        "llm",
        "chatbot",
        "chat bot",
    ),
    *(
        "learning model",
        "virtual assistant",
        "digital assistant",
        "computer program",
        "neural network",
    ),
    *("generative model", "my knowledge", "my training", "my last", "my latest", "last knowledge"),
    *(
        "current knowledge",
        "latest knowledge",
        "my creator",
        "my developer",
        "my maker",
        "trained on",
    ),
    *(
        "trained using",
        "trained with",
        " by openai",
        "by open ai",
        "by anthropic",
        "by google",
        "by deepmind",
    ),
    *(
        "by meta",
        "by alibaba",
        "by deepseek",
        "by mistral",
        "by microsoft",
        "by xai",
        "by moonshot",
        "by zhipu",
    ),
    *(
        "by baidu",
        "by cohere",
        "by stability",
        "by nvidia",
        "by tencent",
        "by bytedance",
        "by huawei",
    ),
    *(
        "by inflection",
        "by ai21",
        "by lmsys",
        "by eleuther",
        "by the",
        "i'm ",
        "i am ",
        "my name is",
        "call me",
    ),
    *(
        "als ",
        "ich bin",
        "en tant qu",
        "je suis",
        "como ",
        "soy ",
        "siendo ",
        "come ",
        "sono un",
        "sou ",
    ),
    *(
        "作为",
        "作為",
        "我只",
        "我是",
        "我叫",
        "我仅",
        "我僅",
        "由",
        "我的知",
        "我的训",
        "我的訓",
        "として",
        "なので",
        "であるため",
    ),
    *("ich wurde", "ich heiße", "mein name ist", "je m'appelle", "me llamo", "mi nombre es"),
    *(
        "mi chiamo",
        "sono chat",
        "sono gpt",
        "sono stat",
        "fui ",
        "he sido",
        "chatgpt",
        "chat gpt",
        "j'ai été",
    ),
    *("ですので", "私は", "openai", "グーグル", "как ", "я ", "로서", "이기 때문에", "이므로"),
)


def identifies(answers: "pl.DataFrame") -> "pl.Series":
    """Return for each line whether the answer speaks of its writer as a model; `plain` is it without
    case, with single spaces and straight apostrophes."""
    import polars as pl

    plain = pl.col("plain")
    return confirmed(answers, plain.str.contains_any(list(_WORDS)), plain.str.contains(PATTERN))
