use quest_burn::policy::PolicyKind;
use quest_burn_report::{
    plot::{BarChart, Figure, LineChart, Scale},
    table::Table,
};

use super::RecallRow;
use crate::{
    budget::{Budget, cell},
    unique,
};

/// Every row, shares as percentages.
pub fn table(rows: &[RecallRow]) -> Table {
    let mut table = Table::new([
        "policy",
        "budget",
        "in tokens",
        "layer",
        "top-10 recall",
        "attention mass",
        "tokens read",
    ]);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for row in rows {
        table.push([
            row.policy.to_string(),
            cell(row.asked_budget),
            row.budget.to_string(),
            row.layer
                .map_or("mean".to_owned(), |layer| layer.to_string()),
            percent(row.of.recall),
            percent(row.of.mass),
            percent(row.of.read),
        ]);
    }
    table
}

/// Recall and mass over the budget, a line for each policy; and recall by layer, bars for each
/// budget.
pub fn figure(title: &str, rows: &[RecallRow]) -> Figure {
    let policies = unique(rows.iter().map(|row| row.policy));
    let budgets = unique(rows.iter().filter_map(|row| row.asked_budget));
    let over_budget = |title: &str, share: fn(&RecallRow) -> f64| {
        let chart = LineChart::new(title, "token budget", "share");
        let chart = chart.with_x_scale(Scale::Log2).with_y_range(0.0, 1.0);
        policies.iter().fold(chart, |chart, &policy| {
            let means = rows.iter();
            let means = means.filter(|row| row.policy == policy && row.layer.is_none());
            let mut points = means
                .map(|row| (row.budget as f64, share(row)))
                .collect::<Vec<_>>();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            chart.with_line(policy.to_string(), points)
        })
    };
    let figure = Figure::new(title)
        .with(over_budget("recall of the ten highest", |row| {
            row.of.recall
        }))
        .with(over_budget("attention covered", |row| row.of.mass));
    budgets.into_iter().fold(figure, |figure, budget| {
        figure.with(by_layer(rows, &policies, budget))
    })
}

fn by_layer(rows: &[RecallRow], policies: &[PolicyKind], budget: Budget) -> BarChart {
    let of = |policy| {
        let rows = rows.iter();
        // Policies that read everything have no budget.
        rows.filter(move |row| row.policy == policy && row.asked_budget.is_none_or(|b| b == budget))
            .filter(|row| row.layer.is_some())
    };
    let layers = unique(rows.iter().filter_map(|row| row.layer));
    BarChart {
        title: format!("recall by layer, {}", budget.label()),
        x_label: "layer".into(),
        y_label: "share".into(),
        groups: layers.iter().map(usize::to_string).collect(),
        series: policies
            .iter()
            .map(|&policy| {
                let recalls = of(policy).map(|row| row.of.recall).collect();
                (policy.to_string(), recalls)
            })
            .collect(),
        y_max: Some(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recall::LayerRecall;

    fn row(policy: PolicyKind, budget: usize, layer: Option<usize>, recall: f64) -> RecallRow {
        RecallRow {
            policy,
            length: 1024,
            budget,
            asked_budget: Some(Budget::Tokens(budget)),
            layer,
            steps: 4,
            of: LayerRecall {
                recall,
                mass: recall,
                read: 0.0625,
            },
            recall_by_step: None,
        }
    }

    fn result() -> Vec<RecallRow> {
        [PolicyKind::QUEST, PolicyKind::Tova]
            .into_iter()
            .flat_map(|policy| {
                [64, 128].into_iter().flat_map(move |budget| {
                    [None, Some(0), Some(1)]
                        .into_iter()
                        .map(move |layer| row(policy, budget, layer, 0.625))
                })
            })
            .collect()
    }

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let text = table(&result()[..2]).to_string();
        let lines = text.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("mean") && lines[1].contains("62.5 %"),
            "{text}"
        );
        assert!(lines[2].contains("6.2 %"), "{text}");
    }

    #[test]
    fn budgets_of_as_many_tokens_are_told_apart() {
        let rows = ["1/64", "1/32"].into_iter().flat_map(|asked| {
            [None, Some(0)].map(|layer| RecallRow {
                asked_budget: Some(asked.parse().unwrap()),
                ..row(PolicyKind::QUEST, 16, layer, 0.5)
            })
        });
        let rows = rows.collect::<Vec<_>>();
        let text = table(&rows).to_string();
        let lines = text.lines().collect::<Vec<_>>();
        assert!(
            lines[1].contains("1/64") && lines[3].contains("1/32"),
            "{text}"
        );
        let svg = figure("recall", &rows).to_svg().unwrap();
        for budget in ["1/64", "1/32"] {
            let title = format!("recall by layer, budget {budget} of the context");
            assert!(svg.lines().any(|line| line.trim() == title), "{title}");
        }
    }

    #[test]
    fn the_figure_shows_budgets_and_layers() {
        let svg = figure("recall", &result()).to_svg().unwrap();
        for text in [
            "recall of the ten highest",
            "attention covered",
            "recall by layer, budget 64 tokens",
            "recall by layer, budget 128 tokens",
            "tova",
        ] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text}");
        }
        // Two lines of two points in each of two charts, and a mark for each line in the legend.
        assert_eq!(svg.matches("<circle").count(), 2 * (2 * 2 + 2));
    }
}
