use quest_burn_report::{
    plot::{Figure, LineChart},
    table::Table,
};

use super::PerplexityRow;
use crate::{
    budget::{Budget, cell},
    unique,
};

/// A line for each policy and budget; what it loses is measured against the dense policy, if that
/// is among them.
pub fn table(rows: &[PerplexityRow]) -> Table {
    let dense = rows.iter().find(|row| row.asked_budget.is_none());
    let mut table = Table::new([
        "policy",
        "budget",
        "tokens",
        "mean NLL",
        "perplexity",
        "above dense",
    ]);
    for row in rows {
        let above = dense.map(|dense| row.perplexity - dense.perplexity);
        table.push([
            row.policy.to_string(),
            cell(row.asked_budget),
            row.tokens.to_string(),
            format!("{:.6}", row.mean_nll),
            format!("{:.4}", row.perplexity),
            above.map_or("-".to_owned(), |above| format!("{above:.4}")),
        ]);
    }
    table
}

/// A chart for each budget: perplexity of all tokens up to a position, a line for each policy. What
/// reads everything is in every chart.
pub fn figure(title: &str, rows: &[PerplexityRow]) -> Figure {
    let budgets = unique(rows.iter().filter_map(|row| row.asked_budget));
    let chart = |title: String, budget: Option<Budget>| {
        let chart = LineChart::new(title, "tokens", "perplexity").without_markers();
        let rows = rows.iter();
        let rows = rows.filter(|row| row.asked_budget.is_none() || row.asked_budget == budget);
        rows.fold(chart, |chart, row| {
            let points = row.points.iter();
            let points = points.map(|point| (point.position as f64, point.running));
            chart.with_line(row.policy.name(), points.collect())
        })
    };
    let figure = Figure::new(title);
    if budgets.is_empty() {
        return figure.with(chart("all tokens".into(), None));
    }
    budgets.into_iter().fold(figure, |figure, budget| {
        figure.with(chart(budget.label(), Some(budget)))
    })
}

#[cfg(test)]
mod tests {
    use quest_burn::policy::PolicyKind;

    use super::*;
    use crate::perplexity::perplexity_curve;

    fn rows() -> Vec<PerplexityRow> {
        let row = |policy, budget: Option<&str>, perplexity: f64| PerplexityRow {
            policy,
            budget: 64,
            tokens: 3,
            mean_nll: perplexity.ln(),
            perplexity,
            points: perplexity_curve(&[perplexity.ln() as f32; 3], 10, 2),
            asked_budget: budget.map(|budget| budget.parse().unwrap()),
        };
        vec![
            row(PolicyKind::Dense, None, 4.0),
            row(PolicyKind::QUEST, Some("64"), 4.5),
        ]
    }

    #[test]
    fn the_table_says_how_far_a_policy_is_above_dense() {
        let text = table(&rows()).to_string();
        let lines = text.lines().map(|line| line.split_whitespace().collect());
        let lines = lines.collect::<Vec<Vec<_>>>();
        assert_eq!(
            lines[1],
            ["dense", "-", "3", "1.386294", "4.0000", "0.0000"]
        );
        assert_eq!(
            lines[2],
            ["quest", "64", "3", "1.504077", "4.5000", "0.5000"]
        );
        let text = table(&rows()[1..]).to_string();
        assert!(text.ends_with('-'), "nothing to compare with: {text}");
    }

    #[test]
    fn the_figure_has_a_chart_for_each_budget_with_a_line_for_each_policy() {
        let svg = figure("a text", &rows()).to_svg().unwrap();
        for text in ["dense", "quest", "budget 64 tokens"] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text}");
        }
        let svg = figure("a text", &rows()[..1]).to_svg().unwrap();
        assert!(svg.lines().any(|line| line.trim() == "all tokens"));
    }
}
