//! Time against context, as SVG.

mod axis;
mod series;
mod style;

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use plotters::prelude::{
    BindKeyPoints, ChartBuilder, IntoDrawingArea, IntoLogRange, SVGBackend, WHITE,
};

use crate::{BenchError, Record};
use series::series;
use style::{Legend, Style};

const WIDTH: u32 = 900;
/// Of the chart; the legend is below, where it covers no line.
const HEIGHT: u32 = 560;

/// Refuses a file that cannot be written, before anything is measured, and leaves what there is as
/// it is.
///
/// # Errors
///
/// When the file cannot be opened.
pub fn check(path: &Path) -> Result<(), BenchError> {
    let refused = |error: io::Error| BenchError::Option {
        option: "--plot",
        expected: "a file that can be written".into(),
        found: format!("{}: {error}", path.display()),
    };
    let is_there = path.symlink_metadata().is_ok();
    // To open a pipe is to use it up, and a link to nothing would be removed below.
    if is_there && !path.is_file() && !path.is_dir() {
        return Ok(());
    }
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(refused)?;
    if !is_there {
        fs::remove_file(path).map_err(refused)?;
    }
    Ok(())
}

/// Draws the median times of all results over their contexts.
///
/// # Errors
///
/// When there is nothing to draw, or the file cannot be written.
pub fn time_over_context(records: &[Record], path: &Path) -> Result<(), BenchError> {
    let refused = |message: String| BenchError::Write {
        path: path.display().to_string(),
        message,
    };
    let lines = series(records);
    let points = || lines.values().flatten();
    if points().next().is_none() {
        return Err(refused(
            "expected results with a context, found none".into(),
        ));
    }
    let bounds = |values: Vec<f64>| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        least * 0.8..most * 1.25
    };
    let contexts = bounds(points().map(|(context, _)| *context).collect());
    let times = bounds(points().map(|(_, ms)| *ms).collect());
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        let legend = Legend::new(lines.keys().cloned().collect(), WIDTH as i32);
        let size = (WIDTH, HEIGHT + legend.height());
        let area = SVGBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE)?;
        let (above, below) = area.split_vertically(HEIGHT);
        let named = axis::contexts(points().map(|(context, _)| *context).collect(), &contexts);
        let ticks = axis::ticks(&times);
        let mut chart = ChartBuilder::on(&above)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(
                contexts.log_scale().with_key_points(named),
                times.log_scale().with_key_points(ticks),
            )?;
        chart
            .configure_mesh()
            .x_desc("tokens of context")
            .y_desc("milliseconds")
            .x_label_formatter(&|tokens| axis::tokens(*tokens))
            .y_label_formatter(&f64::to_string)
            .label_style(style::text())
            .axis_desc_style(style::text())
            .draw()?;
        for (index, points) in lines.values().enumerate() {
            let style = Style::of(index);
            let points = points.iter().copied();
            chart.draw_series([style.line(points.clone())])?;
            chart.draw_series(points.map(|point| style.mark(point)))?;
        }
        legend.draw(&below)?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|error| refused(error.to_string()))
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
