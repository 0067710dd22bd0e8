use quest_burn::policy::PolicyKind;
use quest_burn_report::{
    plot::{Figure, HeatMap},
    table::Table,
};

use super::PasskeyRow;
use crate::{
    budget::{Budget, cell},
    unique,
};

/// The share of right answers of each policy, budget and length, over all depths.
pub fn table(rows: &[PasskeyRow]) -> Table {
    let mut table = Table::new([
        "policy",
        "budget",
        "in tokens",
        "length",
        "trials",
        "correct",
        "accuracy",
        "worst depth",
    ]);
    let of_all_depths = rows.chunk_by(|a, b| {
        (a.policy, a.asked_budget, a.length) == (b.policy, b.asked_budget, b.length)
    });
    for rows in of_all_depths {
        let first = &rows[0];
        let trials = rows.iter().map(|row| row.trials).sum::<usize>();
        let correct = rows.iter().map(|row| row.correct).sum::<usize>();
        let worst = rows.iter().filter_map(accuracy).fold(1.0, f64::min);
        table.push([
            first.policy.to_string(),
            cell(first.asked_budget),
            first.budget.to_string(),
            first.length.to_string(),
            trials.to_string(),
            correct.to_string(),
            format!("{:.1} %", 100.0 * correct as f64 / trials.max(1) as f64),
            format!("{:.1} %", 100.0 * worst),
        ]);
    }
    table
}

/// A heat map of depth and length for each policy and budget.
pub fn figure(title: &str, rows: &[PasskeyRow]) -> Figure {
    let contenders = unique(rows.iter().map(|row| (row.policy, row.asked_budget)));
    let lengths = unique(rows.iter().map(|row| row.length));
    let depths = unique(rows.iter().map(|row| row.depth));
    contenders
        .iter()
        .fold(Figure::new(title), |figure, &contender| {
            let value = |length, depth| {
                let row = rows.iter().find(|row| {
                    (row.policy, row.asked_budget) == contender
                        && (row.length, row.depth) == (length, depth)
                });
                row.and_then(accuracy)
            };
            figure.with(HeatMap {
                title: name(contender),
                x_label: "tokens".into(),
                y_label: "depth of the passkey".into(),
                columns: lengths.iter().map(usize::to_string).collect(),
                rows: depths
                    .iter()
                    .map(|depth| format!("{:.0} %", 100.0 * depth))
                    .collect(),
                values: depths
                    .iter()
                    .map(|&depth| lengths.iter().map(|&length| value(length, depth)).collect())
                    .collect(),
            })
        })
}

fn accuracy(row: &PasskeyRow) -> Option<f64> {
    (row.trials > 0).then(|| row.correct as f64 / row.trials as f64)
}

fn name((policy, budget): (PolicyKind, Option<Budget>)) -> String {
    match budget {
        None => policy.to_string(),
        Some(budget) => format!("{policy}, {}", budget.label()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: PolicyKind, budget: Option<&str>, depth: f64, correct: usize) -> PasskeyRow {
        PasskeyRow {
            policy,
            length: 1024,
            budget: budget.map_or(1024, |_| 64),
            depth,
            trials: 4,
            correct,
            asked_budget: budget.map(|budget| budget.parse().unwrap()),
        }
    }

    fn result() -> Vec<PasskeyRow> {
        vec![
            row(PolicyKind::Dense, None, 0.5, 4),
            row(PolicyKind::Dense, None, 1.0, 4),
            row(PolicyKind::QUEST, Some("1/16"), 0.5, 1),
            row(PolicyKind::QUEST, Some("1/16"), 1.0, 4),
        ]
    }

    #[test]
    fn the_table_counts_over_all_depths_and_names_the_worst() {
        let text = table(&result()).to_string();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 3, "{text}");
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(lines[2]),
            [
                "quest", "1/16", "64", "1024", "8", "5", "62.5", "%", "25.0", "%"
            ]
        );
    }

    #[test]
    fn the_figure_has_a_heat_map_for_each_policy_and_budget() {
        let svg = figure("passkey", &result()).to_svg().unwrap();
        let is_there = |text: &str| svg.lines().any(|line| line.trim() == text);
        assert!(is_there("dense"));
        assert!(is_there("quest, budget 1/16 of the context"));
        assert!(is_there("25") && is_there("1024") && is_there("50 %"));
    }
}
