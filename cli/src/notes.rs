//! What the libraries have to say while they work: notes and warnings, on stderr.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::failure::one_line;

/// Notes of our own crates; those of others are for their authors.
struct Notes;

/// Has notes and warnings of the libraries printed.
pub fn print() {
    // It fails where there is a logger already, which then prints them.
    if log::set_logger(&Notes).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("quest_burn") && metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let kind = match record.level() {
                Level::Error | Level::Warn => "warning",
                Level::Info | Level::Debug | Level::Trace => "note",
            };
            eprintln!("{kind}: {}", one_line(&record.args().to_string()));
        }
    }

    fn flush(&self) {}
}
