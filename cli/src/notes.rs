//! What the libraries have to say while they work: notes and warnings, on stderr.

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::failure::one_line;

/// Notes of our own crates; those of others are for their authors.
struct Notes;

/// Has notes and warnings of the libraries printed.
pub(crate) fn print() {
    // It fails where there is a logger already, which then prints them.
    if log::set_logger(&Notes).is_ok() {
        log::set_max_level(match cfg!(feature = "gpu") {
            // CubeCL tells of each compilation as a trace.
            true => LevelFilter::Trace,
            false => LevelFilter::Info,
        });
    }
}

impl Log for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_note = metadata.level() <= Level::Info;
        metadata.target().starts_with("quest_burn") && is_note
    }

    fn log(&self, record: &Record<'_>) {
        #[cfg(feature = "gpu")]
        crate::kernels::note(record);
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
