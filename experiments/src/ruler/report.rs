use quest_burn_report::{
    plot::{Figure, HeatMap},
    table::Table,
};

use super::RulerRow;
use crate::{budget::cell, unique};

/// The score of each policy and budget in each task and length.
pub fn table(rows: &[RulerRow]) -> Table {
    let mut table = Table::new([
        "policy",
        "budget",
        "in tokens",
        "task",
        "length",
        "trials",
        "score",
    ]);
    for row in rows {
        table.push([
            row.policy.to_string(),
            cell(row.asked_budget),
            row.budget.to_string(),
            row.task.to_string(),
            row.length.to_string(),
            row.trials.to_string(),
            format!("{:.1} %", 100.0 * row.score),
        ]);
    }
    table
}

/// A heat map of task and length for each policy and budget.
pub fn figure(title: &str, rows: &[RulerRow]) -> Figure {
    let contenders = unique(rows.iter().map(|row| (row.policy, row.asked_budget)));
    let lengths = unique(rows.iter().map(|row| row.length));
    let tasks = unique(rows.iter().map(|row| row.task));
    contenders.iter().fold(Figure::new(title), |figure, &who| {
        let value = |task, length| {
            let mut rows = rows.iter().filter(|row| row.trials > 0);
            let row = rows.find(|row| {
                (row.policy, row.asked_budget) == who && (row.task, row.length) == (task, length)
            });
            row.map(|row| row.score)
        };
        figure.with(HeatMap {
            title: match who.1 {
                None => who.0.to_string(),
                Some(budget) => format!("{}, {}", who.0, budget.label()),
            },
            x_label: "tokens".into(),
            y_label: "task".into(),
            columns: lengths.iter().map(usize::to_string).collect(),
            rows: tasks.iter().map(|task| task.to_string()).collect(),
            values: tasks
                .iter()
                .map(|&task| lengths.iter().map(|&length| value(task, length)).collect())
                .collect(),
        })
    })
}

#[cfg(test)]
mod tests {
    use quest_burn::policy::PolicyKind;

    use super::*;
    use crate::ruler::RulerTask;

    fn rows() -> Vec<RulerRow> {
        let row = |policy, budget: Option<&str>, score| RulerRow {
            policy,
            task: RulerTask::VariableTracking,
            length: 4096,
            budget: 64,
            asked_budget: budget.map(|budget| budget.parse().unwrap()),
            trials: 5,
            score,
        };
        vec![
            row(PolicyKind::Dense, None, 0.96),
            row(PolicyKind::QUEST, Some("1/64"), 0.2),
        ]
    }

    #[test]
    fn the_table_has_a_line_for_each_score() {
        let text = table(&rows()).to_string();
        let last = text.lines().last().unwrap().split_whitespace();
        let expected = ["quest", "1/64", "64", "vt", "4096", "5", "20.0", "%"];
        assert_eq!(last.collect::<Vec<_>>(), expected);
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn the_figure_has_a_heat_map_for_each_policy_and_budget() {
        let svg = figure("RULER", &rows()).to_svg().unwrap();
        let is_there = |text: &str| svg.lines().any(|line| line.trim() == text);
        assert!(is_there("dense") && is_there("quest, budget 1/64 of the context"));
        assert!(is_there("vt") && is_there("96"));
    }
}
