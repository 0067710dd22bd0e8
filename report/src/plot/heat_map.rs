use plotters::{
    element::Rectangle,
    style::{
        Color, FontTransform,
        text_anchor::{HPos, VPos},
    },
};

use super::{PlotError, check_finite, check_length, style};

/// Shares from 0 to 1 as colours of a grid, each with its percentage.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// What is shown.
    pub title: String,
    /// What the columns are.
    pub x_label: String,
    /// What the rows are.
    pub y_label: String,
    /// Names of the columns, from the left.
    pub columns: Vec<String>,
    /// Names of the rows, from the top.
    pub rows: Vec<String>,
    /// A list for each row, with a value or nothing for each column.
    pub values: Vec<Vec<Option<f64>>>,
}

impl HeatMap {
    /// Above this many cells in a row or column their numbers are left out.
    const MAX_NUMBERS: i32 = 24;

    fn check(&self) -> Result<(), PlotError> {
        if self.rows.is_empty() || self.columns.is_empty() {
            return Err(PlotError::Empty(self.title.clone()));
        }
        check_length(&self.title, "rows", self.rows.len(), self.values.len())?;
        for (name, row) in self.rows.iter().zip(&self.values) {
            check_length(&self.title, name, self.columns.len(), row.len())?;
            check_finite(&self.title, name, row.iter().flatten().copied())?;
        }
        Ok(())
    }

    pub(super) fn draw(&self, area: &style::Area) -> Result<(), PlotError> {
        self.check()?;
        let area = style::titled(area, &self.title)?;
        let (width, height) = area.dim_in_pixel();
        let row_names = self.rows.iter();
        let longest = row_names.map(|name| style::text_width(name, style::TEXT_SIZE));
        let left = longest.max().unwrap_or(0) + style::LINE_HEIGHT + 16;
        let right = width as i32 - 16;
        let bottom = height as i32 - 2 * style::LINE_HEIGHT - 10;
        let x = |column: usize| left + (right - left) * column as i32 / self.columns.len() as i32;
        let y = |row: usize| bottom * row as i32 / self.rows.len() as i32;

        let (n_rows, n_columns) = (self.rows.len() as i32, self.columns.len() as i32);
        let numbers = n_rows.max(n_columns) <= Self::MAX_NUMBERS;
        for (row, values) in self.values.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                let corners = [(x(column), y(row)), (x(column + 1) - 1, y(row + 1) - 1)];
                let color = value.map_or(style::MISSING, style::shade);
                area.draw(&Rectangle::new(corners, color.filled()))?;
                let Some(value) = value.filter(|_| numbers) else {
                    continue;
                };
                let middle = ((x(column) + x(column + 1)) / 2, (y(row) + y(row + 1)) / 2);
                let size = style::TEXT_SIZE.min((y(row + 1) - y(row)) * 7 / 10);
                let style = style::text(size, style::on(color), HPos::Center, VPos::Center);
                area.draw_text(&format!("{:.0}", value * 100.0), &style, middle)?;
            }
        }

        self.draw_names(&area, x, y, (left, right, bottom))
    }

    /// Names of rows and columns, and of the axes.
    fn draw_names(
        &self,
        area: &style::Area,
        x: impl Fn(usize) -> i32,
        y: impl Fn(usize) -> i32,
        (left, right, bottom): (i32, i32, i32),
    ) -> Result<(), PlotError> {
        let style =
            |horizontal, vertical| style::text(style::TEXT_SIZE, style::TEXT, horizontal, vertical);
        // Names that would overlap are left out.
        let every = (self.rows.len() * style::TEXT_SIZE as usize).div_ceil(bottom.max(1) as usize);
        for (row, name) in self.rows.iter().enumerate().step_by(every.max(1)) {
            let at = (left - 6, (y(row) + y(row + 1)) / 2);
            area.draw_text(name, &style(HPos::Right, VPos::Center), at)?;
        }
        let widest = self.columns.iter();
        let widest = widest.map(|name| style::text_width(name, style::TEXT_SIZE) + 8);
        let widest = widest.max().unwrap_or(1) as usize;
        let every = (self.columns.len() * widest).div_ceil((right - left).max(1) as usize);
        for (column, name) in self.columns.iter().enumerate().step_by(every.max(1)) {
            let at = ((x(column) + x(column + 1)) / 2, bottom + 6);
            area.draw_text(name, &style(HPos::Center, VPos::Top), at)?;
        }
        let at = ((left + right) / 2, bottom + 6 + style::LINE_HEIGHT);
        area.draw_text(&self.x_label, &style(HPos::Center, VPos::Top), at)?;
        let upright = style(HPos::Center, VPos::Top).transform(FontTransform::Rotate270);
        area.draw_text(&self.y_label, &upright, (8, bottom / 2))?;
        Ok(())
    }
}
