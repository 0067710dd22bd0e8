use plotters::{
    element::Rectangle,
    prelude::ChartBuilder,
    style::{
        Color,
        text_anchor::{HPos, VPos},
    },
};

use super::{PlotError, check_finite, check_length, style, style::Swatch};

/// Groups of bars, one bar of a group for each series.
#[derive(Clone, Debug)]
pub struct BarChart {
    /// What is shown.
    pub title: String,
    /// What the groups are.
    pub x_label: String,
    /// What the bars count.
    pub y_label: String,
    /// Names of the groups, from the left.
    pub groups: Vec<String>,
    /// Name of each series and its value in each group.
    pub series: Vec<(String, Vec<f64>)>,
    /// Upper end of the vertical axis; above the highest bar when not given.
    pub y_max: Option<f64>,
}

impl BarChart {
    fn check(&self) -> Result<(), PlotError> {
        if self.groups.is_empty() || self.series.is_empty() {
            return Err(PlotError::Empty(self.title.clone()));
        }
        for (name, values) in &self.series {
            check_length(&self.title, name, self.groups.len(), values.len())?;
            check_finite(&self.title, name, values.iter().copied())?;
        }
        Ok(())
    }

    pub(super) fn draw(&self, area: &style::Area) -> Result<(), PlotError> {
        self.check()?;
        let values = self.series.iter().flat_map(|(_, values)| values);
        let highest = values.clone().copied().fold(0.0, f64::max);
        let lowest = values.copied().fold(0.0, f64::min);
        let top = self.y_max.unwrap_or(highest * 1.05);
        let top = if top > lowest { top } else { lowest + 1.0 };

        let area = style::titled(area, &self.title)?;
        let entries = self.series.iter().enumerate();
        let entries = entries
            .map(|(index, (name, _))| (name.as_str(), Swatch::Area(style::series_color(index))));
        let area = style::legend(&area, &entries.collect::<Vec<_>>())?;
        let n_groups = self.groups.len();
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .x_label_area_size(2 * style::LINE_HEIGHT + 4)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..n_groups as f64, lowest..top)?;
        let label = style::text(style::TEXT_SIZE, style::TEXT, HPos::Left, VPos::Top);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .label_style(label.clone())
            .axis_desc_style(label)
            .bold_line_style(style::GRID)
            .light_line_style(style::GRID.mix(0.0))
            .axis_style(style::TEXT)
            .x_labels(0)
            .y_labels(8)
            .y_desc(&self.y_label)
            .draw()?;

        const GAP: f64 = 0.2;
        let bar = (1.0 - GAP) / self.series.len() as f64;
        for (index, (_, values)) in self.series.iter().enumerate() {
            let color = style::series_color(index);
            chart.draw_series(values.iter().enumerate().map(|(group, &value)| {
                let left = group as f64 + GAP / 2.0 + index as f64 * bar;
                let corners = [(left, 0.0), (left + bar * 0.95, value)];
                Rectangle::new(corners, color.filled())
            }))?;
        }

        // Where the axes put a group is known in pixels of the whole figure.
        let (left, floor) = area.get_base_pixel();
        let style = style::text(style::TEXT_SIZE, style::TEXT, HPos::Center, VPos::Top);
        let place = |x: f64| {
            let (x, y) = chart.backend_coord(&(x, lowest));
            (x - left, y - floor + 8)
        };
        for (group, name) in self.groups.iter().enumerate() {
            area.draw_text(name, &style, place(group as f64 + 0.5))?;
        }
        let (x, y) = place(n_groups as f64 / 2.0);
        area.draw_text(&self.x_label, &style, (x, y + style::LINE_HEIGHT))?;
        style::rule(&area, shift(place(0.0)), shift(place(n_groups as f64)))
    }
}

/// From where a name begins to the axis above it.
fn shift((x, y): (i32, i32)) -> (i32, i32) {
    (x, y - 8)
}
