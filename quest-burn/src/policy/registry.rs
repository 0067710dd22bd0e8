//! The policies by name. A policy that is added here is one that every program knows.

use core::{fmt, str::FromStr};

use burn::config::Config;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::*;
use crate::rope::RopeConfig;

/// One line per policy: its kind, with the type of its options if it has some, its type, its name on
/// command lines and what it reads. The type is made from a [`PolicyConfig`] by its `TryFrom`, or,
/// where there are options, by its `new` from [`PolicyConfig::quest`], the options and the page size.
macro_rules! policies {
    ($($kind:ident $(($options:ty))?: $policy:ty = $name:literal, $about:literal;)+) => {
        /// The policies that a [`PolicyConfig`] can make, with the options of each.
        ///
        /// Written `name` or `name:key=value,key=value`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        #[non_exhaustive]
        pub enum PolicyKind {
            $(#[doc = $about] $kind $(($options))?,)+
        }

        impl PolicyKind {
            /// All of them, with the options that they have when nothing is said.
            pub const ALL: &'static [Self] = &[$(Self::$kind $((<$options>::DEFAULT))?),+];

            /// Its name on command lines and in results, without options.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind { .. } => $name),+ }
            }

            /// What it reads, in a few words.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$kind { .. } => $about),+ }
            }

            /// The options that it has.
            pub const fn options(self) -> &'static [PolicyOption] {
                match self { $(Self::$kind { .. } => policies!(@keys $($options)?)),+ }
            }

            /// The policy of this kind with other options than the default ones.
            fn with_options(self, options: &str) -> Result<Self, OptionError> {
                match self {
                    $(Self::$kind { .. } => policies!(@parse options, $kind $($options)?)),+
                }
            }

            /// The options that are not the default ones.
            fn options_text(self) -> String {
                match self { $(policies!(@pattern options, $kind $($options)?) => {
                    policies!(@text options, $($options)?)
                }),+ }
            }

            fn init(
                self,
                config: &PolicyConfig,
                page_size: usize,
            ) -> Result<Box<dyn PagePolicy>, PolicyError> {
                Ok(match self { $(policies!(@pattern options, $kind $($options)?) => {
                    policies!(@init config, page_size, options, $policy, $($options)?)
                }),+ })
            }
        }
    };
    (@keys) => { &[] };
    (@keys $options:ty) => { <$options>::OPTIONS };
    (@parse $text:ident, $kind:ident) => { Err(OptionError::None($text.to_owned())) };
    (@parse $text:ident, $kind:ident $options:ty) => {
        $text.parse::<$options>().map(Self::$kind)
    };
    (@pattern $binding:ident, $kind:ident) => { Self::$kind };
    (@pattern $binding:ident, $kind:ident $options:ty) => { Self::$kind($binding) };
    (@text $binding:ident,) => { String::new() };
    (@text $binding:ident, $options:ty) => { $binding.to_string() };
    (@init $config:ident, $page_size:ident, $binding:ident, $policy:ty,) => {
        Box::new(<$policy>::try_from($config)?)
    };
    (@init $config:ident, $page_size:ident, $binding:ident, $policy:ty, $options:ty) => {
        Box::new(<$policy>::new($config.quest.clone(), $binding, $page_size)?)
    };
}

policies! {
    Dense: DensePolicy = "dense", "Every page";
    Quest(QuestOptions): QuestPolicy = "quest", "The pages that matter to the query, by their digests";
    Streaming: StreamingPolicy = "streaming", "The first four and the most recent tokens";
    H2o: H2oPolicy = "h2o", "Tokens that have received much attention, and the most recent";
    Tova: TovaPolicy = "tova", "Tokens that no query has given the least attention";
    Oracle(OracleOptions): OraclePolicy = "oracle", "The pages that matter to the query, by their true scores";
    TopP(TopPOptions): TopPPolicy = "top-p",
        "As many of Quest's pages as hold a share of the attention";
    Reuse(ReuseOptions): ReusePolicy = "reuse",
        "Quest's pages, with scores that serve several steps or layers";
    Raas(RaasOptions): RaasPolicy = "raas", "Pages that a query has used lately, and the prompt";
    Chess(ChessOptions): ChessPolicy = "chess",
        "Pages with keys like the newest ones, selected rarely";
    Recent(RecentOptions): RecentPolicy = "recent", "The first page and the newest pages";
    Random(RandomOptions): RandomPolicy = "random", "Pages drawn at random, and the prompt";
}

impl PolicyKind {
    /// Quest as its settings say.
    pub const QUEST: Self = Self::Quest(QuestOptions::DEFAULT);
    /// The oracle as the settings of Quest say.
    pub const ORACLE: Self = Self::Oracle(OracleOptions::DEFAULT);
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.options_text() {
            options if options.is_empty() => f.pad(self.name()),
            options => f.pad(&format!("{}:{options}", self.name())),
        }
    }
}

/// A text that is no policy.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyKindError {
    /// A name that no policy has.
    #[error("policy: expected one of {}, found {found:?}", names())]
    Name {
        /// The name that was given.
        found: String,
    },
    /// Options that the policy does not have.
    #[error("options of {policy}: {error}")]
    Options {
        /// Name of the policy.
        policy: &'static str,
        /// What is wrong with them.
        error: OptionError,
    },
}

fn names() -> String {
    let names = PolicyKind::ALL.iter().map(|kind| kind.name());
    names.collect::<Vec<_>>().join(", ")
}

impl FromStr for PolicyKind {
    type Err = PolicyKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, options) = match text.split_once(':') {
            Some((name, options)) => (name, Some(options)),
            None => (text, None),
        };
        let named = Self::ALL.iter().find(|kind| kind.name() == name);
        let kind = named.copied().ok_or_else(|| PolicyKindError::Name {
            found: name.to_owned(),
        })?;
        let Some(options) = options else {
            return Ok(kind);
        };
        let with = kind.with_options(options);
        with.map_err(|error| PolicyKindError::Options {
            policy: kind.name(),
            error,
        })
    }
}

impl PolicyKind {
    /// Reads policies that are separated by commas, as their options are: what is no name but a `key=value`
    /// adds an option to the policy before it.
    ///
    /// # Errors
    ///
    /// When one of them is no policy or has options that do not fit it.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, PolicyKindError> {
        let mut policies: Vec<String> = Vec::new();
        for part in text.split(',') {
            let name = part.split(':').next().unwrap_or(part);
            match policies.last_mut() {
                Some(last) if name.contains('=') => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => policies.push(part.trim().to_owned()),
            }
        }
        policies.iter().map(|policy| policy.parse()).collect()
    }
}

impl From<PolicyKind> for String {
    fn from(kind: PolicyKind) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for PolicyKind {
    type Error = PolicyKindError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A policy by its kind, with the settings that all kinds share.
///
/// Every kind checks all settings, so that a comparison of policies fails as a whole or not at all.
#[derive(Config, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Which policy.
    pub kind: PolicyKind,
    /// Token budget and dense layers, of every policy; with whom a list is shared, of
    /// Quest, the oracle and H2O; the rest is about Quest and the oracle.
    #[config(default = "QuestConfig::new()")]
    pub quest: QuestConfig,
    /// The model's rotary embedding: StreamingLLM needs it.
    pub rope: Option<RopeConfig>,
}

impl PolicyConfig {
    /// The policy, once it is known to work in a cache with pages of `page_size` tokens. It follows the
    /// cache that it is used with.
    ///
    /// # Errors
    ///
    /// See [`PolicyError`].
    pub fn init(&self, page_size: usize) -> Result<Box<dyn PagePolicy>, PolicyError> {
        self.quest.validate_for(page_size)?;
        self.kind.init(self, page_size)
    }
}

impl From<PolicyKind> for PolicyConfig {
    fn from(kind: PolicyKind) -> Self {
        Self::new(kind)
    }
}

impl From<QuestConfig> for PolicyConfig {
    fn from(quest: QuestConfig) -> Self {
        Self::new(PolicyKind::QUEST).with_quest(quest)
    }
}

/// A policy that cannot be made as configured.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    use crate::{FixedPoint, pages::GroupRule};

    #[test]
    fn every_policy_is_found_by_its_name() {
        for &kind in PolicyKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "snapkv".parse::<PolicyKind>().unwrap_err().to_string();
        let known = PolicyKind::ALL.iter().map(|kind| kind.name());
        let known = known.collect::<Vec<_>>().join(", ");
        assert_eq!(
            error,
            format!("policy: expected one of {known}, found \"snapkv\"")
        );
        assert!(known.starts_with("dense, quest, streaming, h2o"), "{known}");
    }

    #[test]
    fn options_come_with_the_name_and_go_with_it() {
        let text = "raas:prompt=competes,used=0.25";
        let kind = text.parse::<PolicyKind>().unwrap();
        assert_eq!((kind.to_string().as_str(), kind.name()), (text, "raas"));
        assert_eq!("raas:used=0.5".parse(), "raas".parse::<PolicyKind>());
        let config = PolicyConfig::new(kind);
        let json = config.to_string();
        assert!(json.contains(&format!("{text:?}")), "{json}");
        assert_eq!(PolicyConfig::load_binary(json.as_bytes()).unwrap(), config);
        assert!(kind.options().iter().any(|option| option.key == "prompt"));
    }

    #[test]
    fn options_that_a_policy_does_not_have_are_refused() {
        let error = |text: &str| text.parse::<PolicyKind>().unwrap_err().to_string();
        assert_eq!(
            error("h2o:used=1"),
            "options of h2o: expected no options, found `used=1`"
        );
        assert_eq!(
            error("random:sed=1"),
            "options of random: expected one of prompt, seed, found `sed`"
        );
    }

    #[test]
    fn a_list_tells_policies_from_their_options() {
        let texts = [
            "dense",
            "raas:prompt=competes,used=0.25",
            "random:seed=7",
            "quest",
        ];
        let policies = PolicyKind::parse_list(&texts.join(",")).unwrap();
        let found = policies.iter().map(PolicyKind::to_string);
        assert_eq!(found.collect::<Vec<_>>(), texts);
    }

    #[test]
    fn what_is_no_policy_is_refused_in_a_list() {
        let error = |text: &str| PolicyKind::parse_list(text).unwrap_err().to_string();
        for text in ["dense,snapkv", "dense,", ",dense", "used=0.5"] {
            assert!(error(text).starts_with("policy: expected one of dense, quest"));
        }
        assert_eq!(
            error("dense,raas:prompt=pinned,seed=1"),
            "options of raas: expected one of prompt, used, prompt-share, free, found `seed`"
        );
    }

    #[test]
    fn quest_scores_as_its_options_say_or_else_its_settings() {
        let settings = QuestConfig::new()
            .with_group_rule(GroupRule::Mean)
            .with_deviations(Some(FixedPoint::whole(3)));
        let scoring = |text: &str| {
            let PolicyKind::Quest(options) = text.parse().unwrap() else {
                panic!("{text}");
            };
            let policy = QuestPolicy::new(settings.clone(), options, 16).unwrap();
            let scoring = policy.config().scoring();
            (scoring.group_rule, scoring.deviations.unwrap().to_string())
        };
        assert_eq!(scoring("quest"), (GroupRule::Mean, "3".to_owned()));
        assert_eq!(
            scoring("quest:group=max,c=0.5"),
            (GroupRule::Max, "0.5".to_owned())
        );
        assert_eq!(
            "quest:c=two".parse::<PolicyKind>().unwrap_err().to_string(),
            "options of quest: c: expected a number from 0 to 1000, found `two`"
        );
    }

    #[test]
    fn every_policy_is_made_from_the_shared_settings() {
        for &kind in PolicyKind::ALL {
            let config = PolicyConfig::new(kind).with_rope(Some(RopeConfig::new()));
            config.init(16).unwrap();
            let bad = config.with_quest(QuestConfig::new().with_token_budget(15));
            assert!(
                matches!(bad.init(16), Err(PolicyError::Settings(_))),
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
