use quest_burn_report::{
    plot::{Figure, LineChart, Scale},
    table::Table,
};

use super::{LongBenchRow, Task};
use crate::{budget::cell, contender::Contender, unique};

/// A line for each policy and budget, with the score in each task and the mean of these.
pub fn table(rows: &[LongBenchRow]) -> Table {
    let (tasks, contenders) = (tasks(rows), contenders(rows));
    let headings = ["policy".to_owned(), "budget".to_owned()].into_iter();
    let names = tasks.iter().map(|task| task.to_string());
    let mut table = Table::new(headings.chain(names).chain(["mean".to_owned()]));
    for contender in contenders {
        let scores = scores(rows, &tasks, contender);
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let cells = scores
            .iter()
            .chain([&mean])
            .map(|score| format!("{score:.2}"));
        table.push(
            [contender.policy.to_string(), cell(contender.budget)]
                .into_iter()
                .chain(cells),
        );
    }
    table
}

/// A chart for each task: the score over the budget, a line for each policy.
pub fn figure(title: &str, rows: &[LongBenchRow]) -> Figure {
    let policies = unique(rows.iter().map(|row| row.policy));
    tasks(rows)
        .into_iter()
        .fold(Figure::new(title), |figure, task| {
            let of_task = rows.iter().filter(|row| row.task == task);
            let budgets = of_task.clone().filter(|row| row.asked_budget.is_some());
            let budgets = budgets.map(|row| row.budget as f64).collect::<Vec<_>>();
            let chart = LineChart::new(task.name(), "token budget", task.metric().label());
            let chart = policies.iter().fold(chart, |chart, &policy| {
                let of_policy = of_task.clone().filter(|row| row.policy == policy);
                let points = of_policy.flat_map(|row| match row.asked_budget {
                    // What reads everything is a level that the others are to reach.
                    None if !budgets.is_empty() => {
                        budgets.iter().map(|&budget| (budget, row.score)).collect()
                    }
                    _ => vec![(row.budget as f64, row.score)],
                });
                let mut points = points.collect::<Vec<_>>();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                chart.with_line(policy.name(), points)
            });
            figure.with(chart.with_x_scale(Scale::Log2))
        })
}

fn scores(rows: &[LongBenchRow], tasks: &[Task], contender: Contender) -> Vec<f64> {
    let score = |&task: &Task| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row.task == task && row.contender() == contender);
        row.map_or(0.0, |row| row.score)
    };
    tasks.iter().map(score).collect()
}

fn tasks(rows: &[LongBenchRow]) -> Vec<Task> {
    unique(rows.iter().map(|row| row.task))
}

fn contenders(rows: &[LongBenchRow]) -> Vec<Contender> {
    unique(rows.iter().map(LongBenchRow::contender))
}

#[cfg(test)]
mod tests {
    use quest_burn::policy::PolicyKind;

    use super::*;

    fn row(task: Task, policy: PolicyKind, budget: Option<&str>, score: f64) -> LongBenchRow {
        LongBenchRow {
            task,
            metric: task.metric(),
            policy,
            budget: 512,
            records: 3,
            cut: 0,
            score,
            asked_budget: budget.map(|budget| budget.parse().unwrap()),
        }
    }

    fn rows() -> Vec<LongBenchRow> {
        vec![
            row(Task::Qasper, PolicyKind::Dense, None, 40.0),
            row(Task::Qasper, PolicyKind::QUEST, Some("1/8"), 30.0),
            row(Task::GovReport, PolicyKind::Dense, None, 21.0),
            row(Task::GovReport, PolicyKind::QUEST, Some("1/8"), 22.5),
        ]
    }

    #[test]
    fn the_table_has_a_line_for_each_policy_with_the_mean_of_all_tasks() {
        let text = table(&rows()).to_string();
        let lines = text.lines().map(|line| line.split_whitespace().collect());
        let lines = lines.collect::<Vec<Vec<_>>>();
        assert_eq!(
            lines[0],
            ["policy", "budget", "qasper", "gov_report", "mean"]
        );
        assert_eq!(lines[1], ["dense", "-", "40.00", "21.00", "30.50"]);
        assert_eq!(lines[2], ["quest", "1/8", "30.00", "22.50", "26.25"]);
        assert_eq!(lines.len(), 3, "{text}");
    }

    #[test]
    fn the_figure_has_a_chart_for_each_task_with_a_line_for_each_policy() {
        for rows in [&rows()[..], &rows()[..1]] {
            let svg = figure("a model", rows).to_svg().unwrap();
            for text in ["qasper", "F1, %", "dense", "a model"] {
                assert!(svg.lines().any(|line| line.trim() == text), "{text}");
            }
        }
        let svg = figure("a model", &rows()).to_svg().unwrap();
        for text in ["gov_report", "ROUGE-L, %", "quest"] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text}");
        }
    }
}
