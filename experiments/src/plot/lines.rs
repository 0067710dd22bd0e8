use std::ops::Range;

use plotters::{
    prelude::{ChartBuilder, Circle, LineSeries},
    style::{
        Color,
        text_anchor::{HPos, VPos},
    },
};

use super::{PlotError, axis::Axis, check_finite, style};

/// Points that a line connects.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// x and y, in the order of the line.
    pub points: Vec<(f64, f64)>,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps are equally long.
    Linear,
    /// Doublings are equally long; for positive values.
    Log2,
}

/// Lines over one pair of axes, with a legend.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// What is shown.
    pub title: String,
    /// What the horizontal axis counts.
    pub x_label: String,
    /// What the vertical axis counts.
    pub y_label: String,
    /// Division of the horizontal axis.
    pub x_scale: Scale,
    /// Ends of the vertical axis; those of the values when not given.
    pub y_range: Option<(f64, f64)>,
    /// Whether each point is marked.
    pub markers: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

impl LineChart {
    /// A chart without lines: linear axes that end where the values do, and marked points.
    pub fn new(
        title: impl Into<String>,
        x_label: impl Into<String>,
        y_label: impl Into<String>,
    ) -> Self {
        Self {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            x_scale: Scale::Linear,
            y_range: None,
            markers: true,
            lines: Vec::new(),
        }
    }

    /// Divides the horizontal axis otherwise.
    pub fn with_x_scale(mut self, scale: Scale) -> Self {
        self.x_scale = scale;
        self
    }

    /// Fixes the ends of the vertical axis.
    pub fn with_y_range(mut self, low: f64, high: f64) -> Self {
        self.y_range = Some((low, high));
        self
    }

    /// Draws lines only.
    pub fn without_markers(mut self) -> Self {
        self.markers = false;
        self
    }

    /// Adds a line.
    pub fn with_line(mut self, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.lines.push(Line {
            name: name.into(),
            points,
        });
        self
    }

    fn check(&self) -> Result<(), PlotError> {
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return Err(PlotError::Empty(self.title.clone()));
        }
        for line in &self.lines {
            let placed = line.points.iter().flat_map(|&(x, y)| [self.place(x), y]);
            check_finite(&self.title, &line.name, placed)?;
        }
        Ok(())
    }

    /// Where a value lies on the horizontal axis.
    fn place(&self, x: f64) -> f64 {
        match self.x_scale {
            Scale::Linear => x,
            Scale::Log2 => x.log2(),
        }
    }

    /// The horizontal axis. On a logarithmic one, where equal steps are at odd values, the points
    /// are named.
    fn x_axis(&self) -> Axis {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let places = points.map(|&(x, _)| self.place(x));
        let ends = ends(places.clone(), 0.02);
        match self.x_scale {
            Scale::Linear => Axis::round(ends),
            Scale::Log2 => Axis::named(ends, places),
        }
    }

    /// What stands at a place of the horizontal axis.
    fn x_text(&self, place: f64) -> String {
        match self.x_scale {
            Scale::Linear => short(place),
            Scale::Log2 => short(place.exp2()),
        }
    }

    pub(super) fn draw(&self, area: &style::Area) -> Result<(), PlotError> {
        self.check()?;
        let ys = match self.y_range {
            Some((low, high)) => low..high,
            None => {
                let points = self.lines.iter().flat_map(|line| &line.points);
                ends(points.map(|&(_, y)| y), 0.05)
            }
        };
        let area = style::titled(area, &self.title)?;
        let names = self.lines.iter().map(|line| line.name.clone());
        let area = style::legend(&area, &names.collect::<Vec<_>>())?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(self.x_axis(), ys)?;
        let label = style::text(style::TEXT_SIZE, style::TEXT, HPos::Left, VPos::Top);
        chart
            .configure_mesh()
            .label_style(label.clone())
            .axis_desc_style(label)
            .bold_line_style(style::GRID)
            .light_line_style(style::GRID.mix(0.0))
            .axis_style(style::TEXT)
            .x_labels(8)
            .y_labels(8)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_label_formatter(&|&x| self.x_text(x))
            .y_label_formatter(&|&y| short(y))
            .draw()?;
        for (index, line) in self.lines.iter().enumerate() {
            let color = style::series_color(index);
            let points = line.points.iter().map(|&(x, y)| (self.place(x), y));
            let points = points.collect::<Vec<_>>();
            chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
            if self.markers {
                let marks = points.into_iter();
                chart.draw_series(marks.map(|point| Circle::new(point, 3, color.filled())))?;
            }
        }
        Ok(())
    }
}

/// The ends of some values, with a margin; never the same value twice.
fn ends(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let margin = match high - low {
        span if span > 0.0 => span * margin,
        _ => (low.abs() * 0.1).max(0.5),
    };
    low - margin..high + margin
}

/// A number in few characters.
fn short(value: f64) -> String {
    let thousands = [(1048576.0, "M"), (1024.0, "K")];
    for (unit, name) in thousands {
        let count = value / unit;
        if count >= 1.0 && (count - count.round()).abs() < 1e-6 {
            return format!("{}{name}", count.round());
        }
    }
    let text = match value.abs() {
        a if a >= 1000.0 => format!("{value:.0}"),
        a if a >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::Ranged;

    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (1.5, "1.5"),
            (1000.0, "1000"),
            (1024.0, "1K"),
            (16384.0, "16K"),
            (1048576.0, "1M"),
            (1536.0, "1536"),
            (-2.0, "-2"),
            (100.0, "100"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn the_points_are_named_on_a_logarithmic_axis() {
        let names = |points: &[f64]| {
            let points = points.iter().map(|&x| (x, 1.0)).collect();
            let chart = LineChart::new("", "", "").with_x_scale(Scale::Log2);
            let chart = chart.with_line("a", points);
            let ticks = chart.x_axis().key_points(8).into_iter();
            ticks.map(|tick| chart.x_text(tick)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[128.0, 73.0, 128.0]), ["73", "128"]);
        assert_eq!(names(&[64.0, 96.0, 1024.0]), ["64", "96", "1K"]);
        assert_eq!(names(&[100.0]), ["100"]);
    }

    #[test]
    fn ends_are_apart_even_where_all_values_are_equal() {
        assert_eq!(ends([1.0, 3.0].into_iter(), 0.05), 0.9..3.1);
        assert_eq!(ends([0.0].into_iter(), 0.05), -0.5..0.5);
        assert_eq!(ends([20.0, 20.0].into_iter(), 0.05), 18.0..22.0);
    }
}
