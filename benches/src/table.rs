//! Results as aligned columns.

use crate::{Launch, Record, record::Kind};

type Cell = fn(&Record) -> Option<String>;

#[derive(Clone, Copy, Debug)]
struct Column {
    header: &'static str,
    width: usize,
    is_text: bool,
    cell: Cell,
}

const fn text(header: &'static str, width: usize, cell: Cell) -> Column {
    Column {
        header,
        width,
        is_text: true,
        cell,
    }
}

const fn number(header: &'static str, width: usize, cell: Cell) -> Column {
    Column {
        is_text: false,
        ..text(header, width, cell)
    }
}

/// The columns of a benchmark's results: those that its rows can fill.
#[derive(Debug)]
pub(crate) struct Table {
    described: Vec<Column>,
    measured: Vec<Column>,
}

impl Table {
    /// For results of a kind, and the bandwidth that goes with them.
    pub(crate) fn new(kind: Kind) -> Self {
        let is_model = kind != Kind::Attention;
        #[cfg(feature = "models")]
        let is_prompt = kind == Kind::Prefill;
        #[cfg(not(feature = "models"))]
        let is_prompt = false;
        let described = [
            (true, text("operation", 17, |r| Some(r.operation.clone()))),
            (true, text("launch", 6, |r| r.launch.map(launch))),
            (true, text("dtype", 5, |r| r.dtype.clone())),
            (is_model, text("weights", 7, |r| r.weights.clone())),
            (!is_prompt, text("digest", 11, |r| shown(r.digest))),
            (!is_prompt, text("stored", 6, |r| shown(r.digests))),
            (!is_prompt, text("KV", 4, |r| shown(r.kv_cache))),
            (true, number("batch", 5, |r| shown(r.batch))),
            (true, number("heads", 6, Record::heads)),
            (true, number("dim", 4, |r| shown(r.head_dim))),
            (true, number("page", 4, |r| shown(r.page_size))),
            (true, number("context", 8, |r| shown(r.context))),
            (is_prompt, number("chunk", 7, |r| shown(r.chunk))),
            (true, number("budget", 7, |r| shown(r.budget))),
        ];
        let measured = [
            (
                true,
                number("median us", 11, |r| fixed(r.timing.map(|t| t.median_us), 2)),
            ),
            (
                true,
                number("min us", 11, |r| fixed(r.timing.map(|t| t.min_us), 2)),
            ),
            (
                true,
                number("max us", 11, |r| fixed(r.timing.map(|t| t.max_us), 2)),
            ),
            (true, number("GB/s", 8, |r| fixed(r.gb_per_s, 1))),
            (true, number("of copy", 7, |r| fixed(r.copy_share, 2))),
            (
                is_model,
                number("tokens/s", 9, |r| fixed(r.tokens_per_s, 1)),
            ),
        ];
        let filled = |columns: &[(bool, Column)]| {
            let filled = columns.iter().filter(|(is_filled, _)| *is_filled);
            filled.map(|(_, column)| *column).collect()
        };
        Self {
            described: filled(&described),
            measured: filled(&measured),
        }
    }

    /// What the columns are.
    pub(crate) fn header(&self) -> String {
        let columns = self.described.iter().chain(&self.measured);
        line(columns, |column| column.header.to_owned())
    }

    /// A result, or why there is none.
    pub(crate) fn row(&self, record: &Record) -> String {
        let cell = |column: &Column| (column.cell)(record).unwrap_or_else(|| "-".into());
        let described = line(&self.described, cell);
        match &record.reason {
            Some(reason) if record.kind == Kind::Failed => format!("{described} failed: {reason}"),
            Some(reason) => format!("{described} skipped: {reason}"),
            None => format!("{described} {}", line(&self.measured, cell)),
        }
    }
}

fn line<'a>(
    columns: impl IntoIterator<Item = &'a Column>,
    cell: impl Fn(&Column) -> String,
) -> String {
    let padded = columns.into_iter().map(|column| {
        let (cell, width) = (cell(column), column.width);
        match column.is_text {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        }
    });
    padded.collect::<Vec<_>>().join(" ")
}

fn shown<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn fixed(value: Option<f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}

fn launch(launch: Launch) -> String {
    match launch {
        Launch::Graph => "graph".into(),
        Launch::Plain => "plain".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timing;

    fn record(kind: Kind) -> Record {
        Record {
            kind,
            operation: "quest".into(),
            dtype: Some("f32".into()),
            weights: Some("int4".into()),
            chunk: Some(512),
            tokens_per_s: Some(1234.56),
            timing: Some(Timing::of(vec![2.0])),
            ..Record::default()
        }
    }

    /// The cell under a header that ends, or begins, where it does.
    #[track_caller]
    fn cell(kind: Kind, header: &str) -> Option<String> {
        let table = Table::new(kind);
        let begin = table.header().find(header)?;
        let end = begin + header.len();
        let row = table.row(&record(kind));
        let mut words = row.split_whitespace().map(|word| {
            let at = word.as_ptr() as usize - row.as_ptr() as usize;
            (at..at + word.len(), word)
        });
        let under = words.find(|(place, _)| place.start == begin || place.end == end);
        under.map(|(_, word)| word.to_owned())
    }

    #[test]
    fn layers_have_no_columns_of_models() {
        for header in ["weights", "chunk", "tokens/s"] {
            assert_eq!(cell(Kind::Attention, header), None);
        }
        assert_eq!(cell(Kind::Attention, "median us").unwrap(), "2.00");
    }

    #[cfg(feature = "models")]
    #[test]
    fn models_show_their_weights_and_tokens_per_second() {
        for kind in [Kind::Decode, Kind::Prefill] {
            assert_eq!(cell(kind, "dtype").unwrap(), "f32");
            assert_eq!(cell(kind, "weights").unwrap(), "int4");
            assert_eq!(cell(kind, "tokens/s").unwrap(), "1234.6");
        }
        assert_eq!(cell(Kind::Prefill, "chunk").unwrap(), "512");
        assert_eq!(cell(Kind::Decode, "chunk"), None);
    }

    #[test]
    fn a_row_without_times_says_why() {
        let table = Table::new(Kind::Attention);
        let mut record = Record {
            reason: Some("no room".into()),
            ..Record::default()
        };
        assert!(table.row(&record).ends_with(" skipped: no room"));
        record.kind = Kind::Failed;
        assert!(table.row(&record).ends_with(" failed: no room"));
    }
}
