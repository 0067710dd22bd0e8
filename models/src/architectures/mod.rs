//! The architectures that are supported.
//!
//! A member of the family is a file that says how it differs from Llama, and its two lines here. What
//! [`Blocks`](crate::config::Blocks) can say needs no other code; new mathematics is a part of a block
//! and a field there.

mod family;
mod gemma2;
mod gemma3;
mod llama;
mod llama4;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod windows;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

pub(crate) use family::{Family, GgufFamily};

macro_rules! architectures {
    ($($(#[$documentation:meta])* $name:ident: $family:path,)+) => {
        /// The architectures that are supported.
        ///
        /// They differ in the parts of their blocks and in what an absent field means.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Architecture {
            $($(#[$documentation])* $name,)+
        }

        impl Architecture {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            pub(crate) fn family(self) -> &'static Family {
                match self {
                    $(Self::$name => &$family,)+
                }
            }
        }
    };
}

architectures! {
    /// Llama 2 and 3.x, LongChat, Yarn-Llama-2, TinyLlama, SmolLM2.
    Llama: llama::FAMILY,
    /// Mistral 7B and its kin: a sliding window in every layer, in the first version.
    Mistral: mistral::FAMILY,
    /// Mixtral: Mistral with experts.
    Mixtral: mixtral::FAMILY,
    /// Qwen2 and 2.5: biases on queries, keys and values.
    Qwen2: qwen2::FAMILY,
    /// Qwen3: norms of queries and keys.
    Qwen3: qwen3::FAMILY,
    /// Qwen3 with experts.
    Qwen3Moe: qwen3_moe::FAMILY,
    /// Llama 4, its part for text: chunks in layers with a rotary embedding, none of it in the others,
    /// experts beside one for all tokens.
    Llama4: llama4::FAMILY,
    /// Phi-3 and 4: queries, keys and values in one projection, and heads that are rotated in part.
    Phi3: phi3::FAMILY,
    /// Gemma 2: caps on attention scores and logits, sliding windows in every other layer.
    Gemma2: gemma2::FAMILY,
    /// Gemma 3, its part for text: sliding windows in most layers, norms behind the blocks too.
    Gemma3: gemma3::FAMILY,
}

impl Architecture {
    /// The classes of all of them, for messages.
    pub(crate) fn supported() -> &'static str {
        static CLASSES: LazyLock<String> = LazyLock::new(|| {
            let classes = Architecture::ALL.iter().map(|known| known.family().classes);
            classes.collect::<Vec<_>>().concat().join(", ")
        });
        &CLASSES
    }

    /// ggml's names of those that GGUF files are read of, for messages.
    pub(crate) fn supported_in_gguf() -> &'static str {
        static NAMES: LazyLock<String> = LazyLock::new(|| {
            let known = Architecture::ALL.iter();
            let names = known.filter_map(|known| Some(known.family().gguf.as_ref()?.name));
            let mut names = names.collect::<Vec<_>>();
            names.sort_unstable();
            names.dedup();
            names.join(", ")
        });
        &NAMES
    }

    /// From an entry of `architectures`.
    pub(crate) fn from_class(class: &str) -> Option<Self> {
        let mut known = Self::ALL.iter().copied();
        known.find(|known| known.family().classes.contains(&class))
    }

    /// From `model_type`.
    pub(crate) fn from_model_type(model_type: &str) -> Option<Self> {
        let mut known = Self::ALL.iter().copied();
        known.find(|known| known.family().model_types.contains(&model_type))
    }

    /// Those that `general.architecture` of a GGUF file may stand for.
    pub(crate) fn of_gguf(name: &str) -> impl Iterator<Item = (Self, &'static GgufFamily)> {
        let known = Self::ALL.iter();
        let known = known.filter_map(|known| Some((*known, known.family().gguf.as_ref()?)));
        known.filter(move |(_, gguf)| gguf.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_architectures_have_a_name_in_common() {
        for (index, one) in Architecture::ALL.iter().enumerate() {
            for other in &Architecture::ALL[..index] {
                let (one, other) = (one.family(), other.family());
                let is_shared = |names: &[&str], others: &[&str]| {
                    names.iter().any(|name| others.contains(name))
                };
                assert!(!is_shared(one.classes, other.classes), "{:?}", one.classes);
                assert!(!is_shared(one.model_types, other.model_types));
            }
        }
    }

    #[test]
    fn every_name_leads_back_to_its_architecture() {
        for &architecture in Architecture::ALL {
            let family = architecture.family();
            for class in family.classes {
                assert_eq!(Architecture::from_class(class), Some(architecture));
                assert!(Architecture::supported().contains(class));
            }
            for model_type in family.model_types {
                assert_eq!(
                    Architecture::from_model_type(model_type),
                    Some(architecture)
                );
            }
            if let Some(gguf) = &family.gguf {
                let mut found = Architecture::of_gguf(gguf.name);
                assert!(found.any(|(found, _)| found == architecture));
                assert!(Architecture::supported_in_gguf().contains(gguf.name));
            }
        }
    }
}
