//! Policies on the command line.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use quest_burn::policy::{PolicyKind, PolicyKindError};

/// Reads `name` or `name:key=value,..`, and names all policies and their options in the help.
#[derive(Clone)]
pub(crate) struct PolicyParser;

impl TypedValueParser for PolicyParser {
    type Value = PolicyKind;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<PolicyKind, Error> {
        let parser = StringValueParser::new().try_map(|text| text.parse::<PolicyKind>());
        parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let policies = PolicyKind::ALL.iter();
        Some(Box::new(policies.map(|kind| {
            let options = kind.options().iter().map(|option| option.key);
            let options = options.collect::<Vec<_>>().join(", ");
            let help = match options.is_empty() {
                true => kind.about().to_owned(),
                false => format!("{} (options: {options})", kind.about()),
            };
            PossibleValue::new(kind.name()).help(help)
        })))
    }
}

/// The names of all policies, for a help text.
pub(crate) fn names() -> String {
    let names = PolicyKind::ALL.iter().map(|kind| kind.name());
    names.collect::<Vec<_>>().join(", ")
}

/// Several policies.
pub(crate) type PolicyList = Vec<PolicyKind>;

/// Reads policies that are separated by commas, as their options are: what is no name but a
/// `key=value` adds an option to the policy before it.
pub(crate) fn policy_list(text: &str) -> Result<PolicyList, PolicyKindError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_policies_from_their_options() {
        let texts = [
            "dense",
            "raas:prompt=competes,used=0.25",
            "random:seed=7",
            "quest",
        ];
        let policies = policy_list(&texts.join(",")).unwrap();
        let found = policies.iter().map(PolicyKind::to_string);
        assert_eq!(found.collect::<Vec<_>>(), texts);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let error = |text: &str| policy_list(text).unwrap_err().to_string();
        for text in ["dense,snapkv", "dense,", ",dense", "used=0.5"] {
            assert!(error(text).starts_with("policy: expected one of dense, quest"));
        }
        assert_eq!(
            error("dense,raas:prompt=pinned,seed=1"),
            "options of raas: expected one of prompt, used, prompt-share, free, found `seed`"
        );
    }
}
