use quest_burn::policy::PolicyKind;
use quest_burn_report::{
    plot::{BarChart, Figure},
    table::Table,
};

use super::SparsityRow;
use crate::unique;

/// A line for each layer and policy.
pub fn table(rows: &[SparsityRow]) -> Table {
    let mut table = Table::new(["layer", "policy", "budget", "share", "perplexity", "dense"]);
    for row in rows {
        table.push([
            row.layer.to_string(),
            row.policy.to_string(),
            row.budget
                .map_or("-".to_owned(), |budget| budget.to_string()),
            format!("{:.1} %", 100.0 * row.share),
            format!("{:.4}", row.perplexity),
            format!("{:.4}", row.dense_perplexity),
        ]);
    }
    table
}

/// Bars of all policies for each layer.
pub fn figure(title: &str, rows: &[SparsityRow]) -> Figure {
    let layers = unique(rows.iter().map(|row| row.layer));
    let policies = unique(rows.iter().map(|row| row.policy));
    let share = |policy: PolicyKind, layer: usize| {
        let mut rows = rows.iter();
        let row = rows.find(|row| (row.policy, row.layer) == (policy, layer));
        row.map_or(0.0, |row| 100.0 * row.share)
    };
    let of_layers = |policy| layers.iter().map(|&layer| share(policy, layer)).collect();
    Figure::new(title).with(BarChart {
        title: "smallest budget that keeps the perplexity".into(),
        x_label: "layer that is sparse".into(),
        y_label: "% of the context".into(),
        groups: layers.iter().map(usize::to_string).collect(),
        series: policies
            .into_iter()
            .map(|policy| (policy.to_string(), of_layers(policy)))
            .collect(),
        y_max: Some(100.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<SparsityRow> {
        let row = |layer, policy, budget: Option<usize>| SparsityRow {
            policy,
            layer,
            budget,
            share: budget.map_or(1.0, |budget| budget as f64 / 256.0),
            perplexity: 5.0,
            dense_perplexity: 4.995,
        };
        vec![
            row(0, PolicyKind::QUEST, None),
            row(0, PolicyKind::ORACLE, Some(128)),
            row(1, PolicyKind::QUEST, Some(16)),
            row(1, PolicyKind::ORACLE, Some(16)),
        ]
    }

    #[test]
    fn the_table_says_where_no_budget_was_enough() {
        let text = table(&rows()).to_string();
        let lines = text.lines().map(|line| line.split_whitespace().collect());
        let lines = lines.collect::<Vec<Vec<_>>>();
        assert_eq!(
            lines[1],
            ["0", "quest", "-", "100.0", "%", "5.0000", "4.9950"]
        );
        assert_eq!(
            lines[2],
            ["0", "oracle", "128", "50.0", "%", "5.0000", "4.9950"]
        );
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn the_figure_has_bars_for_each_policy_and_layer() {
        let svg = figure("a text", &rows()).to_svg().unwrap();
        for text in ["quest", "oracle", "0", "1", "% of the context"] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text}");
        }
    }
}
