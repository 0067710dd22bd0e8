use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

/// The policy that requests ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum AskedPolicy {
    /// Says nothing of it
    Default,
    Dense,
    Quest,
}

/// A server that was started to be measured.
#[derive(Clone, Debug)]
pub struct StartedServer {
    /// Where it is.
    pub url: String,
    /// The policy that it answers by where a request says nothing.
    pub policy: String,
    /// Tokens that Quest attends to where a request says nothing.
    pub budget: usize,
}

impl AskedPolicy {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no value is skipped");
        value.get_name().to_owned()
    }

    /// What a request says of it, if anything.
    pub(super) fn parameter(self, budget: Option<usize>) -> Option<Value> {
        match (self, budget) {
            (Self::Default, _) => None,
            (Self::Quest, Some(budget)) => Some(json!({ "policy": self, "token_budget": budget })),
            _ => Some(json!({ "policy": self })),
        }
    }

    /// What answers attend to, and the budget that is known: of a server that was started, its own where requests
    /// say nothing.
    pub(super) fn answered_by(
        self,
        budget: Option<usize>,
        started: Option<&StartedServer>,
    ) -> (String, Option<usize>) {
        let policy = match (self, started) {
            (Self::Default, Some(server)) => server.policy.clone(),
            _ => self.name(),
        };
        // A budget is asked for together with Quest only.
        let asked = budget.filter(|_| self == Self::Quest);
        let budget = asked.or(started.map(|server| server.budget));
        let budget = budget.filter(|_| policy == Self::Quest.name());
        (policy, budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_names_what_answered_and_not_what_was_left_unsaid() {
        let started = StartedServer {
            url: String::new(),
            policy: "quest".into(),
            budget: 2048,
        };
        let dense = StartedServer {
            policy: "dense".into(),
            ..started.clone()
        };
        let quest = |budget| ("quest".to_owned(), budget);
        for (asked, budget, server, answered) in [
            (
                AskedPolicy::Default,
                None,
                None,
                ("default".to_owned(), None),
            ),
            (
                AskedPolicy::Default,
                Some(64),
                Some(&started),
                quest(Some(2048)),
            ),
            (
                AskedPolicy::Quest,
                Some(64),
                Some(&started),
                quest(Some(64)),
            ),
            (AskedPolicy::Quest, None, Some(&dense), quest(Some(2048))),
            (AskedPolicy::Quest, None, None, quest(None)),
            (
                AskedPolicy::Default,
                None,
                Some(&dense),
                ("dense".to_owned(), None),
            ),
            (
                AskedPolicy::Dense,
                Some(64),
                Some(&started),
                ("dense".to_owned(), None),
            ),
        ] {
            assert_eq!(asked.answered_by(budget, server), answered, "{asked:?}");
        }
    }

    #[test]
    fn a_request_says_nothing_of_a_policy_that_is_the_server_s() {
        assert_eq!(AskedPolicy::Default.parameter(Some(64)), None);
        let dense = json!({ "policy": "dense" });
        assert_eq!(AskedPolicy::Dense.parameter(Some(64)), Some(dense));
        let quest = json!({ "policy": "quest", "token_budget": 64 });
        assert_eq!(AskedPolicy::Quest.parameter(Some(64)), Some(quest));
    }
}
