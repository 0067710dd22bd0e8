//! The policies by name. A policy that is added here is one that every program knows.

use core::{fmt, str::FromStr};

use burn::config::Config;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    DensePolicy, H2oPolicy, OraclePolicy, PagePolicy, QuestPolicy, StreamingPolicy, TovaPolicy,
};
use crate::{QuestConfig, QuestConfigError, attention::RopeConfig};

/// One line per policy: its kind, its type, its name on command lines and what it reads. The type
/// is made from a [`PolicyConfig`] by its `TryFrom`.
macro_rules! policies {
    ($($kind:ident: $policy:ty = $name:literal, $about:literal;)+) => {
        /// The policies that a [`PolicyConfig`] can make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum PolicyKind {
            $(#[doc = $about] #[serde(rename = $name)] $kind,)+
        }

        impl PolicyKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its name on command lines and in results.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// What it reads, in a few words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$kind => $about),+ }
            }

            fn init(self, config: &PolicyConfig) -> Result<Box<dyn PagePolicy>, PolicyError> {
                Ok(match self { $(Self::$kind => Box::new(<$policy>::try_from(config)?)),+ })
            }
        }
    };
}

policies! {
    Dense: DensePolicy = "dense", "Every page";
    Quest: QuestPolicy = "quest", "The pages that matter to the query, by their digests";
    Streaming: StreamingPolicy = "streaming", "The first four and the most recent tokens";
    H2o: H2oPolicy = "h2o", "Tokens that have received much attention, and the most recent";
    Tova: TovaPolicy = "tova", "Tokens that no query has given the least attention";
    Oracle: OraclePolicy = "oracle", "The pages that matter to the query, by their true scores";
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no policy has.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[error("policy: expected one of {}, found {found:?}", names())]
pub struct UnknownPolicy {
    /// The name that was given.
    pub found: String,
}

fn names() -> String {
    let names = PolicyKind::ALL.iter().map(|kind| kind.name());
    names.collect::<Vec<_>>().join(", ")
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.iter().find(|kind| kind.name() == name);
        kind.copied().ok_or_else(|| UnknownPolicy {
            found: name.to_owned(),
        })
    }
}

/// A policy by its kind, with the settings that all kinds share.
///
/// Every kind checks all settings, so that a comparison of policies fails as a whole or not at all.
#[derive(Config, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Which policy.
    pub kind: PolicyKind,
    /// Token budget, page size and dense layers, of every policy; with whom a list is shared, of
    /// Quest, the oracle and H2O; the rest is about Quest and the oracle.
    #[config(default = "QuestConfig::new()")]
    pub quest: QuestConfig,
    /// The model's rotary embedding: StreamingLLM needs it.
    pub rope: Option<RopeConfig>,
}

impl PolicyConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// See [`PolicyError`].
    pub fn init(&self) -> Result<Box<dyn PagePolicy>, PolicyError> {
        self.quest.validate()?;
        self.kind.init(self)
    }
}

impl From<PolicyKind> for PolicyConfig {
    fn from(kind: PolicyKind) -> Self {
        Self::new(kind)
    }
}

impl From<QuestConfig> for PolicyConfig {
    fn from(quest: QuestConfig) -> Self {
        Self::new(PolicyKind::Quest).with_quest(quest)
    }
}

/// A policy that cannot be made as configured.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// The settings do not make sense.
    #[error(transparent)]
    Settings(#[from] QuestConfigError),
    /// The budget does not hold the tokens that the policy always reads.
    #[error("token budget of {policy}: expected at least {least} ({why}), found {found}")]
    TokenBudget {
        /// Name of the policy.
        policy: &'static str,
        /// The smallest budget.
        least: usize,
        /// What it has to hold.
        why: &'static str,
        /// The budget that was given.
        found: usize,
    },
    /// Positions in the window are asked for without the rotation that makes them.
    #[error(
        "streaming: expected the model's rotary embedding, to move the first tokens to their \
         places in the window, found none"
    )]
    NoRope,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_name() {
        for &kind in PolicyKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            "snapkv".parse::<PolicyKind>().unwrap_err().to_string(),
            "policy: expected one of dense, quest, streaming, h2o, tova, oracle, found \"snapkv\""
        );
    }

    #[test]
    fn every_policy_is_made_from_the_shared_settings() {
        for &kind in PolicyKind::ALL {
            let config = PolicyConfig::new(kind).with_rope(Some(RopeConfig::new()));
            config.init().unwrap();
            let bad = config.with_quest(QuestConfig::new().with_token_budget(15));
            assert!(
                matches!(bad.init(), Err(PolicyError::Settings(_))),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_configuration_is_saved_with_the_policy_s_name() {
        let config = PolicyConfig::new(PolicyKind::H2o);
        let json = config.to_string();
        assert!(json.contains("\"h2o\""), "{json}");
        assert_eq!(PolicyConfig::load_binary(json.as_bytes()).unwrap(), config);
    }
}
