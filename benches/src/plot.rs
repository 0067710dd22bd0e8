//! Time against context, as SVG.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::{BenchError, Launch, Record};

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

/// The points of one line: tokens of context, milliseconds.
type Series = Vec<(f64, f64)>;

/// Draws the median times of all results over their contexts; a line for each operation, budget,
/// shape and kind of launch that differs.
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

fn series(records: &[Record]) -> BTreeMap<String, Series> {
    let mut lines = BTreeMap::<String, Series>::new();
    let several = |value: fn(&Record) -> Option<usize>| {
        let mut values = records.iter().filter_map(value);
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    type Setting = fn(&Record) -> Option<usize>;
    let named: [(&str, Setting); 5] = [
        ("batch", |r| r.batch),
        ("KV heads", |r| r.n_kv_heads),
        ("head dim", |r| r.head_dim),
        ("page", |r| r.page_size),
        ("chunk", |r| r.chunk),
    ];
    let named = named.into_iter().filter(|(_, value)| several(*value));
    let named = named.collect::<Vec<_>>();
    for record in records {
        let (Some(context), Some(timing)) = (record.context, record.timing) else {
            continue;
        };
        let mut label = record.operation.clone();
        if let Some(budget) = record.budget {
            label += &format!(", budget {budget}");
        }
        for (name, value) in &named {
            if let Some(value) = value(record) {
                label += &format!(", {name} {value}");
            }
        }
        if record.launch == Some(Launch::Graph) {
            label += ", graph";
        }
        let points = lines.entry(label).or_default();
        points.push((context as f64, timing.median_us / 1e3));
    }
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
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
    fn a_line_goes_through_the_contexts_of_each_operation_and_budget() {
        let records = [
            record("dense", None, 8192, 4000.0),
            record("dense", None, 4096, 2000.0),
            record("quest", Some(2048), 8192, 1000.0),
        ];
        let lines = series(&records);
        assert_eq!(lines["dense"], [(4096.0, 2.0), (8192.0, 4.0)]);
        assert_eq!(lines["quest, budget 2048"], [(8192.0, 1.0)]);

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
