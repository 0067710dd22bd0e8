//! Charts of results as SVG.
//!
//! A [`Figure`] is a title over panels, each a [`LineChart`], a [`HeatMap`] or a [`BarChart`].

mod axis;
mod bars;
mod figure;
mod heat_map;
mod lines;
mod style;

use std::path::PathBuf;

use thiserror::Error;

pub use bars::BarChart;
pub use figure::{Figure, Panel};
pub use heat_map::HeatMap;
pub use lines::{Line, LineChart, Scale};

/// A figure that was not drawn.
#[derive(Error, Debug)]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("plot `{0}`: expected something to draw, found nothing")]
    Empty(String),
    /// A value has no place in a chart.
    #[error("plot `{title}`: expected finite values, found {value} in `{series}`")]
    NotFinite {
        /// Title of the chart.
        title: String,
        /// Where the value is.
        series: String,
        /// The value.
        value: f64,
    },
    /// A series or row is not as long as the axis.
    #[error("plot `{title}`: expected {expected} values in `{series}`, found {found}")]
    Length {
        /// Title of the chart.
        title: String,
        /// Which series or row.
        series: String,
        /// Entries of the axis.
        expected: usize,
        /// Values that there are.
        found: usize,
    },
    /// The drawing library failed.
    #[error("plot could not be drawn: {0}")]
    Draw(String),
    /// The file cannot be written.
    #[error("{}: plot could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl<E: std::error::Error + Send + Sync> From<plotters::drawing::DrawingAreaErrorKind<E>>
    for PlotError
{
    fn from(error: plotters::drawing::DrawingAreaErrorKind<E>) -> Self {
        Self::Draw(error.to_string())
    }
}

/// Refuses values that are not finite, of a series of a chart.
fn check_finite(
    title: &str,
    series: &str,
    values: impl IntoIterator<Item = f64>,
) -> Result<(), PlotError> {
    match values.into_iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(PlotError::NotFinite {
            title: title.to_owned(),
            series: series.to_owned(),
            value,
        }),
    }
}

/// Refuses another number of values than the axis has entries.
fn check_length(title: &str, series: &str, expected: usize, found: usize) -> Result<(), PlotError> {
    if expected == found {
        return Ok(());
    }
    Err(PlotError::Length {
        title: title.to_owned(),
        series: series.to_owned(),
        expected,
        found,
    })
}

#[cfg(test)]
mod tests;
