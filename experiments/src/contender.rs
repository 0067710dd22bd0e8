//! What is compared: a policy with a budget.

use std::fmt;

use quest_burn::{
    QuestConfig,
    attention::RopeConfig,
    policy::{PagePolicy, PolicyConfig, PolicyError, PolicyKind},
};

use crate::{budget::Budget, unique};

/// A policy, and the budget that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contender {
    /// The policy.
    pub policy: PolicyKind,
    /// What it may read; none of a policy that reads everything.
    pub budget: Option<Budget>,
}

impl Contender {
    /// Every policy with every budget, those that read everything once; none is repeated.
    pub fn all(policies: &[PolicyKind], budgets: &[Budget]) -> Vec<Self> {
        let contenders = policies.iter().flat_map(|&policy| {
            let budgets = match policy {
                PolicyKind::Dense => vec![None],
                _ => budgets.iter().copied().map(Some).collect(),
            };
            let contender = move |budget| Self { policy, budget };
            budgets.into_iter().map(contender)
        });
        unique(contenders)
    }

    /// The budget in tokens: the whole context where there is none.
    pub fn tokens(self, context: usize, page_size: usize) -> usize {
        let tokens = |budget: Budget| budget.tokens(context, page_size);
        self.budget.map_or(context, tokens)
    }

    /// The policy for a context of that many tokens, in pages of `page_size`. All settings but the budget are those of
    /// `quest`.
    ///
    /// # Errors
    ///
    /// When the policy cannot be made with the budget.
    pub fn init(
        self,
        quest: &QuestConfig,
        rope: &RopeConfig,
        context: usize,
        page_size: usize,
    ) -> Result<Box<dyn PagePolicy>, PolicyError> {
        let quest = match self.budget {
            Some(budget) => {
                let tokens = budget.tokens(context, page_size);
                quest.clone().with_token_budget(tokens)
            }
            None => quest.clone(),
        };
        PolicyConfig::new(self.policy)
            .with_quest(quest)
            .with_rope(Some(rope.clone()))
            .init(page_size)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.budget {
            Some(budget) => write!(f, "{} {budget}", self.policy),
            None => write!(f, "{}", self.policy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policies_that_leave_something_out_have_budgets() {
        let budgets = ["64", "1/8"].map(|budget| budget.parse().unwrap());
        let policies = [PolicyKind::Dense, PolicyKind::QUEST, PolicyKind::Dense];
        let all = Contender::all(&policies, &budgets);
        let names = all.iter().map(Contender::to_string).collect::<Vec<_>>();
        assert_eq!(names, ["dense", "quest 64", "quest 1/8"]);
        let tokens = all.iter().map(|contender| contender.tokens(1000, 16));
        assert_eq!(tokens.collect::<Vec<_>>(), [1000, 64, 112]);
    }

    #[test]
    fn a_budget_that_a_policy_cannot_work_with_is_refused() {
        let contender = Contender {
            policy: PolicyKind::QUEST,
            budget: Some(Budget::Tokens(15)),
        };
        let made = contender.init(&QuestConfig::new(), &RopeConfig::new(), 1000, 16);
        assert_eq!(
            made.unwrap_err().to_string(),
            "token budget: expected at least one page of 16 tokens, found 15"
        );
    }
}
