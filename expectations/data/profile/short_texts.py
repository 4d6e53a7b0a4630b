"""The language of texts that are too short to guess at, by words that people answer with.

"Ja, gerne." has too few letters for a guess by their frequency, and a guess at "Berlin", "OK" or `x = 1`
would be wrong as often as not. Words that only glue others together tell more: most words of the text
must be such words of one other language, two of them at least.
"""

import re

_WORD = re.compile(r"[^\W\d_]{2,}")
_LEAST = 2
_MOST = 12  # words; there is a guess at a text with more
# Common words of answers and questions, without those that are names or words of English as well.
WORDS = {
    "en": "about all also an and any are as at be but by can could did do does for from go had has have "
    "he her here him his how if in is it its just let like make maybe me more my never no not now "
    "of off ok okay on one only or our out perhaps please quite she should so some sorry sure "
    "tell than thank thanks that the their them then there they this to too try up use very was "
    "we well were what when where which who why will with would yes yet you your absolutely "
    "always course depends exactly later nothing often probably right soon today tomorrow usually",
    "de": "aber abends also am auch auf aus bei bin bis bist bitte da danke dann das dass dein deine "
    "dem den denke der des dich die dir doch du durch ein eine einen einer eigentlich er erst es "
    "etwas euch für ganz gar genau gerne gern gibt gut habe haben hat heute hier ich ihr im immer "
    "ins ist ja jetzt jeden kann kein keine klar können leider lieber mal man mehr mein meine "
    "meistens mich mir mit möchte morgen muss nach natürlich nein nicht nichts nie noch nur oder "
    "ohne richtig schon sehr sein selbstverständlich sicher sie sind so später stimmt tun über um "
    "und uns vielleicht vielen viel vom von vor wahrscheinlich wann warum was weiß weil wenn wer "
    "werde werden wie wieder wir wird wo zu zum zur",
    "fr": "absolument alors après assez au aucun aussi autre aux avec avez beaucoup bien bientôt bonne "
    "bonjour bonsoir ce cela ces cette chez combien comme comment dans demain depuis des du "
    "dépend elle en est et faut gré il ils je jamais jour la laquelle le les leur lui ma mais "
    "merci mes moi mon même ne non nous où on ou oui par parfois pas peu peut plaît plus pour "
    "pourquoi presque problème puis quand que quel quelle qui quoi rien sais sans se ses si sont "
    "souvent sur sûr ta tant temps toi toujours tous tout toute très trop tu un une va vais veux "
    "vous vraiment être évidemment aujourd hui peux accord certainement ça",
    "es": "acuerdo además ahora algo allí antes aquí así aunque años bien bueno buena buenas cada casi "
    "claro como cómo con creo cual cuándo cuando cuánto de del depende después desde donde dónde "
    "él ella ellos en entonces era eres es esa ese eso esta está están este esto estoy falta "
    "favor gracias gusto ha hace hacer hasta hay hola hoy igual la las le les lo los luego mañana "
    "mas más me mejor menos mi mis mismo mucho muchas muy nada ni ningún no nos nunca para pero "
    "poco por porque pues puede puedo que qué quién quiero quizá quizás se sé según ser sería si "
    "sí siempre sin sobre solo sólo son soy su sus supuesto tal también tampoco tan te tiempo "
    "tiene tengo tengas todo todos tu tus tú un una uno usted va vale vez ya yo",
    "it": "adesso allora anche ancora bene certo che chi ci ciao come con cosa così da dal dei del "
    "della delle di dipende domani dopo dove era essere fa forse fra già gli grazie ha ho il in "
    "io la le lei li lo loro lui ma mai meglio mi mio molto ne nel nella niente noi non nulla "
    "ogni oggi oppure ora per perché però piacere più poco poi prego prima può qual quale qualche "
    "quando quanto quasi quello questa questo qui quindi se sei sempre senza si sì sicuro sono "
    "sta sto stato su subito sul te ti tra troppo tu tutto un una uno va vero voi volentieri vuoi",
    "pt": "acho agora ainda algo amanhã antes ao aqui as assim até bem bom boa cada certeza claro com "
    "como da das de depende depois dia dizer do dos ela ele em então era essa esse está estava "
    "este eu faz foi hoje isso isto já la lá lhe mais mas me melhor menos meu meus minha muito "
    "muita na nada não nem no nos nós nunca obrigado obrigada onde os ou para pela pelo por "
    "porque posso pouco pode qual quando quanto que quem quero se sei sem sempre ser seria seu "
    "sim só sobre sua talvez também tem tempo tenho tudo um uma vai você vou prazer problema",
    "nl": "aan al alleen alles als altijd bedankt bij daar dan dank dat de deze die dit doe doen door "
    "dus een eens en er erg even gaat gaan geen goed graag had heb hebben heel heeft hem het hier "
    "hij hoe iets ik in is ja je jij jouw kan klopt komt kunnen maar meer meestal met mij mijn "
    "misschien moet morgen na naar natuurlijk nee niet niets nog nooit nu of om omdat onder ook "
    "op over prima snap soms te tijd toch tot uit uw van vandaag veel voor vaak waar waarom "
    "waarschijnlijk wat we weet wel wie wij wil worden zal ze zeker zij zijn zo zonder zou",
}
_SETS = {code: frozenset(words.split()) for code, words in WORDS.items()}


def is_other(text: str, wanted: set[str]) -> bool:
    """Tell whether a short text is in another language than those `wanted` (ISO 639-1). Never, where
    the words of one of these are not known here."""
    # Codes such as DE are no words; letters such as i and e are names of variables as well.
    words = [word if word.isupper() else word.lower() for word in _WORD.findall(text)]
    if not _LEAST <= len(words) <= _MOST or not wanted <= _SETS.keys():
        return False
    known = {code: len(common.intersection(words)) for code, common in _SETS.items()}
    own = max(known[code] for code in wanted)
    other = max((count for code, count in known.items() if code not in wanted), default=0)
    return other >= _LEAST and 2 * other > len(words) and other > own
