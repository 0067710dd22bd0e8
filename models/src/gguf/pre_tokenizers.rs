//! How texts are cut before bytes are merged, by the names that `tokenizer.ggml.pre` has for it.
//!
//! The name is all that a GGUF file says, so each one stands here with what the `tokenizer.json` of its
//! models says. A name that is not here is refused: another way to cut gives other tokens.

use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

/// How texts are cut.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// The names that it has.
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Whether characters are composed first.
    is_composed: bool,
    /// Whether a piece that is a token is taken whole, without merging.
    pub ignore_merges: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub add_bos: bool,
}

/// A step of cutting.
#[derive(Debug)]
enum Cut {
    /// Around the matches of a regular expression.
    Around(&'static str),
    /// Around each digit.
    Digits,
    /// Around runs of digits.
    Numbers,
    /// As GPT-2 does.
    Gpt2,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const HAN_AND_HANGUL: &str = "[一-龥ࠀ-一가-퟿]+";
/// Letters with a case, as of an old version of Unicode; as llama.cpp has them for `deepseek-llm`.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
/// As the `tokenizer.json` of DeepSeek-V3 has it.
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// What most of them do not do.
const PLAIN: PreTokenizer = PreTokenizer {
    names: &[],
    cuts: &[],
    is_composed: false,
    ignore_merges: false,
    add_bos: false,
};

static TABLE: [PreTokenizer; 12] = [
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0"],
        cuts: &[Cut::Around(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["smaug-bpe", "dbrx"],
        cuts: &[Cut::Around(LLAMA3)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo"],
        cuts: &[Cut::Around(QWEN2)],
        is_composed: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["stablelm2", "hunyuan"],
        cuts: &[Cut::Around(QWEN2)],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "minerva-7b",
            "codeshell",
            "exaone",
        ],
        cuts: &[Cut::Digits, Cut::Gpt2],
        ..PLAIN
    },
    PreTokenizer {
        names: &[
            "gpt-2", "phi-2", "olmo", "jais", "gigachat", "mellum", "trillion", "a.x-4.0",
        ],
        cuts: &[Cut::Gpt2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["tekken"],
        cuts: &[Cut::Around(TEKKEN)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-4o", "llama4"],
        cuts: &[Cut::Around(GPT4O)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["seed-coder"],
        cuts: &[Cut::Around(SEED_CODER)],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        cuts: &[
            Cut::Around("[\r\n]"),
            Cut::Around(DEEPSEEK_LETTERS),
            Cut::Around(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Cut::Around(r"\s+$"),
            Cut::Around(HAN_AND_HANGUL),
            Cut::Numbers,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        cuts: &[
            Cut::Around("[\r\n]"),
            Cut::Around(r"\s?\p{L}+"),
            Cut::Around(r"\s?\p{P}+"),
            Cut::Around(HAN_AND_HANGUL),
            Cut::Digits,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense"],
        cuts: &[
            Cut::Around(r"\p{N}{1,3}"),
            Cut::Around("[一-龥぀-ゟ゠-ヿ]+"),
            Cut::Around(DEEPSEEK_V3),
        ],
        ..PLAIN
    },
];

/// The way to cut of a name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|known| known.names.contains(&name))
}

/// All names, for messages.
pub(super) fn names() -> String {
    let names = TABLE.iter().flat_map(|known| known.names).copied();
    names.collect::<Vec<_>>().join(", ")
}

impl PreTokenizer {
    /// What is done to characters first.
    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.is_composed.then(|| NFC.into())
    }

    /// The cutting, and at its end bytes as characters.
    pub(super) fn init(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let cuts = self.cuts.iter().map(|cut| {
            Ok(match cut {
                Cut::Around(regex) => {
                    let pattern = SplitPattern::Regex((*regex).into());
                    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into()
                }
                Cut::Digits => Digits::new(true).into(),
                Cut::Numbers => Digits::new(false).into(),
                Cut::Gpt2 => ByteLevel::new(false, true, true).into(),
            })
        });
        let mut cuts = cuts.collect::<tokenizers::Result<Vec<PreTokenizerWrapper>>>()?;
        if !matches!(self.cuts.last(), Some(Cut::Gpt2)) {
            cuts.push(ByteLevel::new(false, true, false).into());
        }
        Ok(Sequence::new(cuts).into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    #[test]
    fn every_name_stands_once_and_its_expressions_compile() {
        let mut names = HashSet::new();
        for known in &TABLE {
            known.init().unwrap();
            for name in known.names {
                assert!(names.insert(name), "{name}");
                assert!(std::ptr::eq(find(name).unwrap(), known));
            }
        }
        assert!(find("default").is_none());
    }

    /// The pieces are those of DeepSeek-V3's own `tokenizer.json`.
    #[test]
    fn texts_are_cut_as_deepseek_v3_cuts_them() {
        let text = "Hello,world 12345 don't\n\n  x=[1]; 你好世界かな  \u{e9}\u{301} end ";
        let mut words = PreTokenizedString::from(text);
        let cuts = find("deepseek-v3").unwrap().init().unwrap();
        cuts.pre_tokenize(&mut words).unwrap();
        let pieces = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces = pieces.into_iter().map(|(piece, ..)| piece);
        let expected = [
            "Hello",
            ",world",
            "Ġ",
            "123",
            "45",
            "Ġdon",
            "'t",
            "ĊĊ",
            "Ġ",
            "Ġx",
            "=[",
            "1",
            "];",
            "Ġ",
            "ä½łå¥½ä¸ĸçķĮãģĭãģª",
            "Ġ",
            "ĠÃ©Ìģ",
            "Ġend",
            "Ġ",
        ];
        assert_eq!(pieces.collect::<Vec<_>>(), expected);
    }
}
