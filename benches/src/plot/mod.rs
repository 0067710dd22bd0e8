//! Time against context, as SVG.

mod series;

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::{BenchError, Record};
use series::series;

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
        let area = SVGBackend::new(path, (900, 600)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(contexts.log_scale().base(2.0), times.log_scale())?;
        chart
            .configure_mesh()
            .x_desc("tokens of context")
            .y_desc("milliseconds")
            .x_label_formatter(&|tokens: &f64| {
                format!("{}K", (tokens / 1024.0 * 10.0).round() / 10.0)
            })
            .draw()?;
        for (index, (label, points)) in lines.iter().enumerate() {
            let color = Palette99::pick(index).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
            let marks = points
                .iter()
                .map(|&point| Circle::new(point, 3, color.filled()));
            chart.draw_series(marks)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;

    fn record(operation: &str, budget: Option<usize>, context: usize, us: f64) -> Record {
        Record {
            operation: operation.into(),
            budget,
            context: Some(context),
            timing: Some(Timing::of(vec![us])),
            ..Record::default()
        }
    }

    #[test]
    fn a_plot_names_its_lines_and_axes() {
        let records = [
            record("dense", None, 8192, 4000.0),
            record("dense", None, 4096, 2000.0),
            record("quest", Some(2048), 8192, 1000.0),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        time_over_context(&records, &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("quest, budget 2048") && svg.contains("tokens of context"));
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
