use plotters::{
    coord::Shift,
    prelude::{DrawingArea, PathElement, RGBColor, Rectangle, SVGBackend},
    style::{
        Color, IntoFont, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::PlotError;

/// Part of a figure, in pixels.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub const TEXT: RGBColor = RGBColor(30, 30, 30);
pub const GRID: RGBColor = RGBColor(225, 225, 225);
pub const MISSING: RGBColor = RGBColor(235, 235, 235);

pub const TITLE_SIZE: i32 = 17;
pub const TEXT_SIZE: i32 = 13;
pub const LINE_HEIGHT: i32 = 20;

/// Colours of series that people with any colour vision tell apart (Okabe and Ito).
const SERIES: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];

pub fn series_color(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Stops of a scale from dark to light whose steps look equal (viridis).
const SHADES: [[f64; 3]; 5] = [
    [68.0, 1.0, 84.0],
    [59.0, 82.0, 139.0],
    [33.0, 145.0, 140.0],
    [94.0, 201.0, 98.0],
    [253.0, 231.0, 37.0],
];

/// The colour of a share from 0 to 1.
pub fn shade(share: f64) -> RGBColor {
    let position = share.clamp(0.0, 1.0) * (SHADES.len() - 1) as f64;
    let stop = (position as usize).min(SHADES.len() - 2);
    let between = position - stop as f64;
    let channel = |i: usize| {
        let value = SHADES[stop][i] + between * (SHADES[stop + 1][i] - SHADES[stop][i]);
        value.round() as u8
    };
    RGBColor(channel(0), channel(1), channel(2))
}

/// Black or white, whichever can be read on a colour.
pub fn on(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let luminance = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    match luminance > 140.0 {
        true => RGBColor(0, 0, 0),
        false => RGBColor(255, 255, 255),
    }
}

pub fn text(size: i32, color: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    TextStyle {
        font: ("sans-serif", size).into_font(),
        color: color.to_backend_color(),
        pos: Pos::new(horizontal, vertical),
    }
}

/// Pixels that a text will take at most.
pub fn text_width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * f64::from(size) * 0.6).ceil() as i32
}

/// Writes a title at the top, and gives what is left.
pub fn titled<'a>(area: &Area<'a>, title: &str) -> Result<Area<'a>, PlotError> {
    if title.is_empty() {
        return Ok(area.clone());
    }
    let (width, _) = area.dim_in_pixel();
    let style = text(TITLE_SIZE, TEXT, HPos::Center, VPos::Center);
    area.draw_text(title, &style, (width as i32 / 2, LINE_HEIGHT / 2 + 4))?;
    Ok(area.split_vertically(LINE_HEIGHT + 8).1)
}

/// Writes which colour is which series at the top, and gives what is left.
pub fn legend<'a>(area: &Area<'a>, names: &[String]) -> Result<Area<'a>, PlotError> {
    const SWATCH: i32 = 18;
    const GAP: i32 = 16;
    let (width, _) = area.dim_in_pixel();
    let style = text(TEXT_SIZE, TEXT, HPos::Left, VPos::Center);
    let (mut x, mut y) = (GAP, LINE_HEIGHT / 2);
    for (index, name) in names.iter().enumerate() {
        let entry = SWATCH + 6 + text_width(name, TEXT_SIZE);
        if x > GAP && x + entry > width as i32 {
            (x, y) = (GAP, y + LINE_HEIGHT);
        }
        let swatch = [(x, y - 3), (x + SWATCH, y + 3)];
        area.draw(&Rectangle::new(swatch, series_color(index).filled()))?;
        area.draw_text(name, &style, (x + SWATCH + 6, y))?;
        x += entry + GAP;
    }
    Ok(area.split_vertically(y + LINE_HEIGHT / 2 + 2).1)
}

/// Draws a line between pixels.
pub fn rule(area: &Area, from: (i32, i32), to: (i32, i32)) -> Result<(), PlotError> {
    Ok(area.draw(&PathElement::new([from, to], TEXT))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_run_from_dark_to_light_and_do_not_leave_their_ends() {
        assert_eq!(shade(0.0), RGBColor(68, 1, 84));
        assert_eq!(shade(1.0), RGBColor(253, 231, 37));
        assert_eq!(shade(0.5), RGBColor(33, 145, 140));
        assert_eq!((shade(-3.0), shade(7.0)), (shade(0.0), shade(1.0)));
        assert_eq!(on(shade(0.0)), RGBColor(255, 255, 255));
        assert_eq!(on(shade(1.0)), RGBColor(0, 0, 0));
    }
}
