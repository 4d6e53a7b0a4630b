# ruff: noqa: E501  (a pattern that is broken into lines is harder to read than a long line)
"""Answers that refuse, by grammar and position, in several languages.

An answer refuses when its first or second sentence says that its writer will not or cannot do what
was asked, lacks what it would need (access, information, opinions) or declines. No refusal are
apologies ("I'm sorry for the confusion, here is ..."), requests for more ("I'm not sure what you
mean"), an offer in the same sentence ("While I can't draw it, I can describe it"), and what others
say: in quotation marks, after a speaker's name, or in a part that is played.

Every pattern is for text without case, with single spaces and straight apostrophes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retune.candidates import confirmed

if TYPE_CHECKING:
    import polars as pl

_HEAD = 400  # characters in which a refusal begins

# What an assistant is asked to do. Nothing that only people do ("I can't come tonight").
_ACTS = (
    r"(?:answer|assist|help (?:you|with|in|on|him|her|them)|help(?:[.,;!]|$)|provide|give|offer|fulfill?|comply"
    r"|generate|create|write|produce|draw|display|code|continue|complete|discuss|engage"
    r"|support (?:this|that|your|such)|share|recommend|promote|condone|encourage|browse|access|open"
    r"|view|see (?:any|the|your|what|images?|it)|watch|listen|search|look up|predict|perform|process"
    r"|translate|execute|run|test|send|download|upload|retrieve|recall|remember (?:our|previous|any)"
    r"|identify|determine|say for sure|tell you|participate|verify|confirm|guarantee|export|draft"
    r"|interact|visit|analy[sz]e|summari[sz]e|do (?:that|this|so|it)|respond|disclose|reveal"
    r"|accommodate|satisfy|grant|advise|speculate|make (?:any|a|an|the|such|predictions|physical)"
    r"|explain|describe|solve|fix|check|read|play|pretend|proceed|take part|handle|carry out)"
)
_CANNOT = (
    r"(?:can ?not|can't|won't|will not|(?:am|'m) (?:still |also |currently |just |really )?(?:unable to"
    r"|not (?:able|allowed|permitted|authori[sz]ed|programmed|designed|equipped|trained|meant) to"
    r"|incapable of)|was (?:unable|not able) to|could not|couldn't)"
)
_OFTEN = r"(?: (?:[a-zß-ÿ]+ly|also|just|even|yet|still|in good conscience))?"
_LACKS = (
    r"(?:do not|don't)(?: [a-zß-ÿ]+ly)? (?:have|possess)(?: [a-zß-ÿ]+){0,2}? (?:access|enough (?:[a-zß-ÿ]+ )?(?:information"
    r"|context|data|details)|sufficient|information|the (?:ability|abilities|capability|capacity|capabilities"
    r"|means|necessary|specific)|personal|feelings|emotions|opinions|beliefs|preferences|a physical"
    r"|real[- ]time|up-to-date|knowledge of|data on)"
)
_DECLINES = (
    r"(?:(?:must|have to|will have to|need to|would)(?: [a-zß-ÿ]+ly)? (?:decline|refuse)|(?:[a-zß-ÿ]+ly )?decline to"
    r"|(?:do not|don't|would not|wouldn't) feel (?:[a-zß-ÿ]+ )?comfortable"
    r"|(?:am|'m) not (?:[a-zß-ÿ]+ )?comfortable (?:with|[a-zß-ÿ]+ing)|(?:'d|would) (?:rather|prefer) not"
    r"|(?:will|would|do|could) not (?:[a-zß-ÿ]+ly )?(?:assist|help you|provide|promote|engage|participate|write|generate)"
    r"|refuse to (?:answer|assist|help|provide|write|generate|engage|participate))"
)
# Whoever speaks has been introduced by nobody: no quotation mark and no "Anna:" stands before.
_BEFORE = r"""^[^"“”«»„「:.!?]{0,170}(?:[.!?] [^"“”«»„「:.!?]{0,170})?"""
_ENGLISH = (
    rf"{_BEFORE}\bi ?(?:{_CANNOT}{_OFTEN} {_ACTS}|{_LACKS}|{_DECLINES})",
    rf"{_BEFORE}\b(?:sorry|apologi[sz]e|afraid)\b[^.!?:\"]{{0,60}}\b(?:it|that|this)(?:'s| is| was| would| is simply)"
    r"(?: not|n't) (?:be )?(?:appropriate|ethical|possible|feasible|something i|within my)",
    rf"{_BEFORE}\bit(?:'s| is| would)(?: not|n't) (?:be )?(?:(?:appropriate|ethical|responsible|right) (?:for me )?"
    r"|(?:possible|feasible) for me )to ",
    rf"{_BEFORE}\b(?:against|violates?|outside|beyond) (?:of )?(?:my|openai's|the|our) (?:[a-zß-ÿ]+ ){{0,2}}"
    r"(?:guidelines|programming|content polic|usage polic|capabilities|abilities|purpose|scope|principles)",
    rf"{_BEFORE}\bmy (?:programming|guidelines|training|policies) (?:does not|doesn't|do not|don't|prevents?|prohibits?)",
    r"^[^a-z\"]{0,3}(?:(?:this|that|your) (?:request|question|prompt|content|topic) "
    r"(?:violates|goes against|is inappropriate|is not appropriate|is unethical|is harmful)"
    r"|(?:request|access) (?:denied|declined|refused)[.!])",
)
# The same sentence goes on with what the assistant does instead.
_INSTEAD = (
    r"^[^.!?]{0,300}(?:, (?:but|however|yet) (?:here|i (?:can|could|will|would) [a-mo-z]|i(?:'d|'ll|'m happy)|we can )"
    r"|\b(?:while|although|though) (?:i|it)\b[^.!?]{0,200}, (?:i|here|you|there|we|it)\b"
    r"|\b(?:since|because|as) i (?:cannot|can't|am unable|don't)[^.!?]{0,100}, (?:i|here|let)\b)"
)
# A part that is played, a letter, a user story; "as an AI ..." is none.
_PLAYED = r"^\W*(?:as (?:an?|the) |dear |subject: |scene|chapter |once upon |title: )"
_MODEL = r"^\W*as an? (?:[a-z0-9-]+[ -]){0,4}(?:ai|model|assistant|intelligence|machine|chatbot|bot|program|computer|system|llm)\b"
_OTHERS = (
    # German
    r"""^[^"“”„«»:]{0,160}\b(?:kann|darf|werde|könnte) (?:ich )?(?:\S+ ){0,14}?(?:nicht|kein[a-zß-ÿ]*)\b[^.!?"„]{0,120}\b"""
    r"(?:helfen|weiterhelfen|beantworten|bereitstellen|erstellen|geben|unterstützen|schreiben|generieren"
    r"|anbieten|zugreifen|durchführen|ausführen|anzeigen|empfehlen|liefern|nachkommen|erfüllen|zeichnen|verfassen"
    r"|übersetzen|teilnehmen|sagen|machen|öffnen|abrufen)\b",
    r"""^[^"“”„«»:]{0,160}\bich (?:habe|besitze|verfüge)(?: [a-zß-ÿ]+){0,2} (?:keinen zugriff|keine (?:persönliche|meinung"""
    r"|eigene|gefühle|möglichkeit|informationen|fähigkeit|echtzeit)|nicht über)",
    r"""^[^"“”„«»:]{0,120}\b(?:ich bin (?:leider )?nicht (?:in der lage|dazu|befugt|berechtigt|dafür)"""
    r"|(?:muss|möchte) (?:ich )?(?:\S+ ){0,5}ablehnen)",
    # French
    r"""^[^"“”«»:]{0,160}\bje ne (?:peux|pourrai|puis|saurais|suis)(?: malheureusement)? pas (?:\S+ ){0,4}?"""
    r"(?:vous aider|aider|répondre|fournir|créer|générer|écrire|rédiger|donner|accéder|traduire|réaliser|effectuer"
    r"|satisfaire|continuer|discuter|en mesure|capable|autorisée?|habilitée?|programmée?)",
    r"""^[^"“”«»:]{0,160}\bje (?:n'ai (?:malheureusement )?pas (?:accès|la (?:capacité|possibilité)|d'(?:opinion|information"""
    r"|émotion|avis)|de (?:sentiment|préférence)|suffisamment)|ne dispose pas|dois (?:[a-zß-ÿ]+ )?(?:décliner|refuser))",
    # Spanish
    r"""^[^"“”«»:]{0,160}\bno (?:puedo|podré|podría|soy capaz de|me es posible|estoy (?:programad|autorizad|capacitad)[a-zß-ÿ]+ para)"""
    r" (?:\S+ ){0,2}?(?:ayudar|proporcionar|responder|generar|crear|escribir|cumplir|ofrecer|acceder|brindar|dar|asistir"
    r"|realizar|continuar|traducir|mostrar|ver|compartir|redactar|recomendar|participar|discutir|hacer|predecir|abrir)",
    r"""^[^"“”«»:]{0,160}\b(?:no (?:tengo|poseo|cuento con) (?:acceso|la (?:capacidad|habilidad|posibilidad)|opinion"""
    r"|sentimiento|emocion|información|suficiente|una? opini)|(?:lamento|siento) no poder|debo (?:declinar|rechazar))",
    # Italian
    r"""^[^"“”«»:]{0,160}\bnon (?:posso|potrò|fornirò|sono (?:in grado|capace|autorizzat[a-zß-ÿ]|programmat[a-zß-ÿ]) (?:di|a)) (?:\S+ )?"""
    r"(?:aiutar|fornir|risponder|generar|crear|scriver|offrir|acceder|dar|continuar|tradurr|assister|eseguir|determinar"
    r"|mostrar|parlar|informazioni|consigli|discuter)",
    r"""^[^"“”«»:]{0,160}\b(?:non (?:ho|possiedo|dispongo)(?: [a-zß-ÿ]+)? (?:la (?:capacità|possibilità)|accesso|opinion|sentiment"""
    r"|informazioni|emozion|abbastanza)|devo (?:declinare|rifiutare)|(?:dispiace|spiacente),? (?:ma )?non è (?:appropriato|possibile))",
    # Portuguese
    r"""^[^"“”«»:]{0,160}\bnão (?:posso|consigo|poderei|sou capaz de|me é possível|estou (?:programad|autorizad)[a-zß-ÿ]+ (?:a|para))"""
    r" (?:\S+ ){0,2}?(?:ajud|fornec|respond|ger|cri|escrev|cumpr|oferec|acess|dar|assist|realiz|continu|traduz|mostr|compartilh"
    r"|recomend|particip|discut|atend|fazer|prever|abrir)",
    r"""^[^"“”«»:]{0,160}\b(?:não (?:tenho|possuo) (?:acesso|a (?:capacidade|habilidade|possibilidade)|opini|sentimento|emoç"""
    r"|informaç|suficiente)|(?:lamento|sinto) não poder|devo recusar)",
    # Chinese
    r"^[^「“\"。！？：]{0,60}(?:[。！？][^「“\"。！？：]{0,40})?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾|我|因此|本助手)[^「“\"。！？：]{0,24}"
    r"(?:无法|無法|不能|不可以|不便|不会|不會|没有办法|沒有辦法|没有能力|拒绝|拒絕)(?:[^「“\"。！？]{0,12})"
    r"(?:提供|回答|帮助|帮您|帮你|幫助|幫您|协助|協助|生成|创建|創建|撰写|撰寫|写|寫|满足|滿足|執行|执行|访问|訪問|完成|继续|繼續|处理|處理"
    r"|显示|顯示|讨论|討論|参与|參與|支持|预测|預測|查看|浏览|瀏覽|进行|進行|做到)",
    r"^[^「“\"。！？：]{0,60}我(?:并|並)?(?:没有|沒有)(?:个人|個人|自己的|感情|情感|權限|权限|能力|实时|足够|足夠|访问|相关|關於)",
    # Japanese
    r"^[^「『\"。]{0,80}(?:申し訳|すみません|ごめんなさい|恐れ入り|恐縮|残念ながら)[^「『\"]{0,120}"
    r"(?:できません|できかねます|致しかねます|いたしかねます|応じられません|持っていません|持っておりません|対応しておりません)",
    r"^[^「『\"。]{0,80}(?:お答え|回答|お手伝い|手助け|提供|生成|作成|アクセス|支援|ご案内|翻訳|実行|ご要望に(?:お応え|対応))(?:する|を)?"
    r"(?:すること|こと)?(?:は|が|も)?(?:でき(?:ません|かねます)|いたしかねます)",
    # Russian
    r"""^(?:[^"“”«»„:]{0,120}[^а-яё])?я (?:\S+ ){0,3}?(?:не (?:могу|смогу|буду|способ\S+|в состоянии|умею|имею права))(?: \S+){0,3}? """
    r"(?:помо|предостав|ответ|отвеч|созда|выполн|напис|дать|давать|сгенерир|генерир|обсужда|продолж|перев|поддерж|откры|получ|делать|сдела)",
    r"""^[^"“”«»„:]{0,120}(?:извините|простите|к сожалению|сожалею|прошу прощения)[^.!?"«]{0,40}[^а-яё]не (?:могу|смогу|имею"""
    r"|в состоянии|способ\S+)(?: \S+){0,3}? (?:помо|предостав|ответ|созда|выполн|напис|дать|доступ|обсужда|продолж)",
    r"""^[^"“”«»„:]{0,120}у меня нет (?:доступа|возможности|личн|собственн|мнени|чувств|информации|достаточн)""",
    # Korean
    r"^[^\"“「.!?]{0,60}죄송[^\"“「]{0,80}(?:수 없습니다|어렵습니다|불가능합니다|없습니다)",
)
# Because of something that cannot be done, less is promised; an answer follows.
_REASON = r"^[^。！？]{0,30}(?:由于|由於|因为|因為|虽然|雖然|尽管|儘管)"


# One of these is in whatever the patterns match.
_WORDS_ENGLISH = (
    *(
        "can't",
        "cannot",
        "can not",
        "n't",
        " not ",
        "unable",
        "declin",
        "refus",
        "incapable",
        "against",
    ),
    *(
        "violat",
        "outside",
        "beyond",
        "prevents",
        "prohibit",
        "inappropriate",
        "unethical",
        "harmful",
        "denied",
    ),
)
_WORDS_OTHERS = (
    *(
        "nicht",
        "kein",
        "ablehn",
        "je ne ",
        "je n'ai",
        "je dois",
        "no pued",
        "no podr",
        "no soy",
        "no me es",
    ),
    *(
        "no estoy",
        "no tengo",
        "no poseo",
        "no cuento",
        "no poder",
        "debo ",
        "non pos",
        "non potr",
        "non forn",
    ),
    *(
        "non sono",
        "non ho",
        "non disp",
        "non è",
        "devo ",
        "não ",
        "无法",
        "無法",
        "不能",
        "不可以",
        "不便",
        "不会",
        "不會",
    ),
    *("没有", "沒有", "拒绝", "拒絕", "ません", "かねます", " не ", "у меня нет", "죄송"),
)


def refuses(answers: "pl.DataFrame") -> "pl.Series":
    """Return for each line whether the answer refuses; `plain` is it without case, with single
    spaces and straight apostrophes. Only its beginning is read."""
    import polars as pl

    table = answers.select(head=pl.col("plain").str.head(_HEAD))
    head = pl.col("head")
    english, others = (
        confirmed(table, head.str.contains_any(list(words)), _one_of(patterns))
        for words, patterns in ((_WORDS_ENGLISH, _ENGLISH), (_WORDS_OTHERS, _OTHERS))
    )
    played = head.str.contains(_PLAYED) & ~head.str.contains(_MODEL)
    english = confirmed(table, english, ~head.str.contains(_INSTEAD) & ~played)
    return english | confirmed(table, others, ~head.str.contains(_REASON) & ~played)


def _one_of(patterns: tuple[str, ...]) -> "pl.Expr":
    """Return whether `head` matches a pattern, with boundaries in ASCII: those of Unicode make the
    engine slow where a text is not ASCII."""
    import polars as pl

    ascii_ones = [pattern.replace(r"\b", r"(?-u:\b)") for pattern in patterns]
    return pl.any_horizontal([pl.col("head").str.contains(pattern) for pattern in ascii_ones])


def refusing(texts: Sequence[str]) -> list[bool]:
    """Return for each text, as a model said it, whether it refuses."""
    import polars as pl

    plain = pl.col("plain").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    table = pl.DataFrame({"plain": list(texts)}, schema={"plain": pl.String})
    straight = table.with_columns(plain.str.replace_all("’", "'", literal=True))
    return refuses(straight).to_list()
