use plotters::{
    prelude::ChartBuilder,
    style::{
        Color,
        text_anchor::{HPos, VPos},
    },
};

use super::{
    PlotError,
    axis::{Axis, ends},
    check_finite,
    style::{self, LineStyle, Swatch},
};

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
    /// Doublings are equally long, and the points are named; for positive values.
    Log2,
    /// Powers of ten are equally long, and round numbers are named; for positive values.
    Log10,
}

impl Scale {
    /// Where a value lies on an axis.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log2 => value.log2(),
            Self::Log10 => value.log10(),
        }
    }

    /// The value at a place of an axis.
    fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log2 => place.exp2(),
            Self::Log10 => 10_f64.powf(place),
        }
    }

    /// An axis for values at some places, with a margin that is a share of their span.
    fn axis(self, places: impl Iterator<Item = f64> + Clone, margin: f64) -> Axis {
        let range = ends(places.clone(), margin);
        match self {
            Self::Linear => Axis::round(range),
            Self::Log2 => Axis::named(range, places),
            Self::Log10 => Axis::log10(places),
        }
    }
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
    /// Division of the vertical axis.
    pub y_scale: Scale,
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
            y_scale: Scale::Linear,
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

    /// Divides the vertical axis otherwise.
    pub fn with_y_scale(mut self, scale: Scale) -> Self {
        self.y_scale = scale;
        self
    }

    /// Fixes the ends of a linear vertical axis.
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
            let placed = self.placed(line).flat_map(|(x, y)| [x, y]);
            check_finite(&self.title, &line.name, placed)?;
        }
        Ok(())
    }

    /// Where the points of a line lie on the axes.
    fn placed<'a>(&self, line: &'a Line) -> impl Iterator<Item = (f64, f64)> + Clone + 'a {
        let (x_scale, y_scale) = (self.x_scale, self.y_scale);
        let points = line.points.iter();
        points.map(move |&(x, y)| (x_scale.place(x), y_scale.place(y)))
    }

    fn x_axis(&self) -> Axis {
        let places = self.lines.iter().flat_map(|line| self.placed(line));
        self.x_scale.axis(places.map(|(x, _)| x), 0.02)
    }

    fn y_axis(&self) -> Axis {
        if let Some((low, high)) = self.y_range {
            return Axis::round(self.y_scale.place(low)..self.y_scale.place(high));
        }
        let places = self.lines.iter().flat_map(|line| self.placed(line));
        self.y_scale.axis(places.map(|(_, y)| y), 0.05)
    }

    fn legend(&self) -> Vec<(&str, Swatch)> {
        let lines = self.lines.iter().enumerate();
        let entries = lines.map(|(index, line)| {
            let swatch = Swatch::Line(LineStyle::of(index), self.markers);
            (line.name.as_str(), swatch)
        });
        entries.collect()
    }

    /// Pixels that the legend takes in a panel of a width.
    pub fn legend_height(&self, width: u32) -> u32 {
        style::legend_height(self.lines.iter().map(|line| line.name.as_str()), width)
    }

    pub(super) fn draw(&self, area: &style::Area) -> Result<(), PlotError> {
        self.check()?;
        let area = style::titled(area, &self.title)?;
        let area = style::legend(&area, &self.legend())?;
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(self.x_axis(), self.y_axis())?;
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
            .x_label_formatter(&|&x| short(self.x_scale.value(x)))
            .y_label_formatter(&|&y| short(self.y_scale.value(y)))
            .draw()?;
        for (index, line) in self.lines.iter().enumerate() {
            let style = LineStyle::of(index);
            let points = self.placed(line);
            chart.draw_series([style.line(points.clone())])?;
            if self.markers {
                chart.draw_series(points.map(|point| style.mark(point)))?;
            }
        }
        Ok(())
    }
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
        a if a >= 1e-4 || a == 0.0 => format!("{value:.4}"),
        _ => format!("{value:.1e}").replace(".0e", "e"),
    };
    if text.contains('e') {
        return text;
    }
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
            (0.0005, "0.0005"),
            (0.00005, "5e-5"),
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
            ticks
                .map(|tick| short(chart.x_scale.value(tick)))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[128.0, 73.0, 128.0]), ["73", "128"]);
        assert_eq!(names(&[64.0, 96.0, 1024.0]), ["64", "96", "1K"]);
        assert_eq!(names(&[100.0]), ["100"]);
    }
}
