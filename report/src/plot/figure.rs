use std::{fs, path::Path};

use plotters::prelude::{IntoDrawingArea, SVGBackend, WHITE};

use super::{BarChart, HeatMap, LineChart, PlotError, style};

/// Charts side by side under a title.
#[derive(Clone, Debug)]
pub struct Figure {
    title: String,
    panels: Vec<Panel>,
    panel_size: (u32, u32),
}

/// One chart of a [`Figure`].
#[derive(Clone, Debug)]
pub enum Panel {
    /// Lines.
    Lines(LineChart),
    /// A heat map.
    HeatMap(HeatMap),
    /// Bars.
    Bars(BarChart),
}

impl From<LineChart> for Panel {
    fn from(chart: LineChart) -> Self {
        Self::Lines(chart)
    }
}

impl From<HeatMap> for Panel {
    fn from(map: HeatMap) -> Self {
        Self::HeatMap(map)
    }
}

impl From<BarChart> for Panel {
    fn from(chart: BarChart) -> Self {
        Self::Bars(chart)
    }
}

impl Panel {
    fn draw(&self, area: &style::Area) -> Result<(), PlotError> {
        match self {
            Self::Lines(chart) => chart.draw(area),
            Self::HeatMap(map) => map.draw(area),
            Self::Bars(chart) => chart.draw(area),
        }
    }
}

impl Figure {
    /// Pixels of a panel unless told otherwise.
    const PANEL_SIZE: (u32, u32) = (560, 400);
    const MAX_COLUMNS: usize = 3;
    const TITLE_HEIGHT: u32 = 32;

    /// A figure without panels.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            panels: Vec::new(),
            panel_size: Self::PANEL_SIZE,
        }
    }

    /// Makes every panel of a width and height in pixels.
    pub fn with_panel_size(mut self, width: u32, height: u32) -> Self {
        self.panel_size = (width, height);
        self
    }

    /// Adds a chart behind the others.
    pub fn with(mut self, panel: impl Into<Panel>) -> Self {
        self.panels.push(panel.into());
        self
    }

    /// The figure as an SVG document.
    ///
    /// # Errors
    ///
    /// When a chart is empty or holds values that cannot be drawn.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        if self.panels.is_empty() {
            return Err(PlotError::Empty(self.title.clone()));
        }
        // 2 and 4 panels look best in two columns.
        let columns = match self.panels.len() {
            4 => 2,
            n => n.min(Self::MAX_COLUMNS),
        };
        let rows = self.panels.len().div_ceil(columns);
        let size = (
            self.panel_size.0 * columns as u32,
            self.panel_size.1 * rows as u32 + Self::TITLE_HEIGHT,
        );
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&WHITE)?;
            let below = style::titled(&root, &self.title)?;
            for (panel, area) in self.panels.iter().zip(below.split_evenly((rows, columns))) {
                panel.draw(&area)?;
            }
            root.present()?;
        }
        Ok(svg)
    }

    /// Writes the figure into a file.
    ///
    /// # Errors
    ///
    /// As [`to_svg`](Self::to_svg), and when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PlotError> {
        let svg = self.to_svg()?;
        fs::write(path, svg).map_err(|source| PlotError::Write {
            path: path.into(),
            source,
        })
    }
}
