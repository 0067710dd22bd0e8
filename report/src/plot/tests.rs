use super::*;

fn map() -> HeatMap {
    HeatMap {
        title: "quest <1/16>".into(),
        x_label: "length".into(),
        y_label: "depth".into(),
        columns: vec!["1K".into(), "2K".into()],
        rows: vec!["50 %".into(), "100 %".into()],
        values: vec![vec![Some(1.0), Some(0.25)], vec![None, Some(0.0)]],
    }
}

fn lines() -> LineChart {
    LineChart::new("recall", "budget", "share")
        .with_x_scale(Scale::Log2)
        .with_y_range(0.0, 1.0)
        .with_line("quest", vec![(64.0, 0.5), (128.0, 0.75), (256.0, 1.0)])
        .with_line("h2o", vec![(64.0, 0.1), (256.0, 0.2)])
}

fn bars() -> BarChart {
    BarChart {
        title: "by layer".into(),
        x_label: "layer".into(),
        y_label: "recall".into(),
        groups: vec!["2".into(), "3".into()],
        series: vec![
            ("quest".into(), vec![0.9, 0.8]),
            ("tova".into(), vec![0.1, 0.0]),
        ],
        y_max: Some(1.0),
    }
}

fn count(svg: &str, part: &str) -> usize {
    svg.matches(part).count()
}

#[test]
fn a_figure_holds_each_panel_with_its_names() {
    let figure = Figure::new("accuracy")
        .with(map())
        .with(lines())
        .with(bars());
    let svg = figure.to_svg().unwrap();
    assert!(svg.starts_with("<svg "), "{}", &svg[..80]);
    assert!(svg.trim_end().ends_with("</svg>"));
    for text in [
        "accuracy",
        "quest &lt;1/16&gt;",
        "1K",
        "50 %",
        "by layer",
        "recall",
        "budget",
        "tova",
        "h2o",
    ] {
        let whole = svg.lines().any(|line| line.trim() == text);
        assert!(whole, "{text} is not in {svg}");
    }
}

#[test]
fn cells_have_the_colour_and_number_of_their_value() {
    let svg = Figure::new("").with(map()).to_svg().unwrap();
    for color in ["#FDE725", "#3B528B", "#440154", "#EBEBEB"] {
        assert_eq!(count(&svg, color), 1, "{color} in {svg}");
    }
    for number in ["100", "25", "0"] {
        assert!(svg.lines().any(|line| line.trim() == number), "{number}");
    }
}

#[test]
fn each_line_has_a_path_and_each_point_a_mark() {
    let svg = Figure::new("").with(lines()).to_svg().unwrap();
    // Each line stands in the legend too, with a mark.
    assert_eq!(count(&svg, "<circle"), 5 + 2);
    assert_eq!(count(&svg, "stroke-width=\"2\""), 2 + 2);
    let svg = Figure::new("").with(lines().without_markers()).to_svg();
    assert_eq!(count(&svg.unwrap(), "<circle"), 0);
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let error = |panel: Panel| Figure::new("figure").with(panel).to_svg().unwrap_err();
    let nothing = LineChart::new("none", "x", "y").with_line("a", Vec::new());
    let message = error(nothing.into()).to_string();
    assert_eq!(
        message,
        "plot `none`: expected something to draw, found nothing"
    );
    // A logarithmic axis has no place for zero.
    let zero = lines().with_line("zero", vec![(0.0, 1.0)]);
    let message = error(zero.into()).to_string();
    assert_eq!(
        message,
        "plot `recall`: expected finite values, found -inf in `zero`"
    );
    let mut short = map();
    short.values[1].pop();
    let message = error(short.into()).to_string();
    assert!(
        message.ends_with("expected 2 values in `100 %`, found 1"),
        "{message}"
    );
    let mut nan = bars();
    nan.series[1].1[0] = f64::NAN;
    let message = error(nan.into()).to_string();
    assert!(message.ends_with("found NaN in `tova`"), "{message}");
    let empty = Figure::new("figure").to_svg().unwrap_err();
    assert!(matches!(empty, PlotError::Empty(_)));
}

#[test]
fn figures_are_written_into_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("figure.svg");
    Figure::new("").with(bars()).save(&path).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("by layer"));
    let nowhere = dir.path().join("absent").join("figure.svg");
    let error = Figure::new("").with(bars()).save(&nowhere).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("figure.svg: plot could not be written")
    );
}
