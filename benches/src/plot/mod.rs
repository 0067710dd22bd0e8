//! Time against context, as SVG.

mod series;

use std::path::Path;

use quest_burn_report::plot::{Figure, LineChart, PlotError, Scale};

use crate::{BenchError, Record};
use series::series;

const WIDTH: u32 = 900;
/// Without the legend.
const HEIGHT: u32 = 560;

/// Draws the median times of all results over their contexts.
///
/// # Errors
///
/// When there is nothing to draw, or the file cannot be written.
pub(crate) fn time_over_context(records: &[Record], path: &Path) -> Result<(), BenchError> {
    let chart = LineChart::new("", "tokens of context", "milliseconds")
        .with_x_scale(Scale::Log2)
        .with_y_scale(Scale::Log10);
    let lines = series(records).into_iter();
    let chart = lines.fold(chart, |chart, (name, points)| chart.with_line(name, points));
    let height = HEIGHT + chart.legend_height(WIDTH);
    let figure = Figure::new("").with_panel_size(WIDTH, height).with(chart);
    figure.save(path).map_err(|error| BenchError::Write {
        path: path.display().to_string(),
        message: match error {
            PlotError::Empty(_) => "expected results with a context, found none".into(),
            PlotError::Write { source, .. } => source.to_string(),
            other => other.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{
        series::tests::{dense_and_quest, record},
        *,
    };

    #[test]
    fn a_plot_names_its_lines_and_axes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        time_over_context(&dense_and_quest(), &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in [
            "quest, budget 2048",
            "tokens of context",
            "4K",
            "8K",
            "1",
            "2",
            "4",
        ] {
            let whole = svg.lines().any(|line| line.trim() == text);
            assert!(whole, "{text} is not in {svg}");
        }
    }

    #[test]
    fn short_contexts_and_times_close_to_each_other_are_named() {
        let records = [
            record("dense", None, 256, 2000.0),
            record("dense", None, 384, 3500.0),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        time_over_context(&records, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["256", "384", "2", "3", "4"] {
            let count = svg.lines().filter(|line| line.trim() == text).count();
            assert_eq!(count, 1, "{text} in {svg}");
        }
    }

    #[test]
    fn nothing_to_draw_and_unwritable_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = time_over_context(&[], &dir.path().join("plot.svg")).unwrap_err();
        assert!(error.to_string().contains("found none"), "{error}");
        let records = [record("dense", None, 8192, 4000.0)];
        let error = time_over_context(&records, &dir.path().join("a/b.svg")).unwrap_err();
        assert!(error.to_string().contains("b.svg"), "{error}");
    }
}
