//! Policies on the command line.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use quest_burn::policy::PolicyKind;

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

/// Several policies; a name that clap does not take for a list of values.
pub(crate) type PolicyList = Vec<PolicyKind>;
