use std::{
    io::{self, BufRead, BufReader, Read},
    time::Instant,
};

/// More than a server sends before a client reads on.
const BUFFER: usize = 1 << 17;

/// The lines of a stream, each with the time at which its end came. Those of one delivery have the same.
pub(super) struct Arrivals<R> {
    reader: BufReader<Timed<R>>,
}

struct Timed<R> {
    source: R,
    came: Instant,
}

impl<R: Read> Arrivals<R> {
    pub(super) fn of(source: R) -> Self {
        let came = Instant::now();
        let timed = Timed { source, came };
        Self {
            reader: BufReader::with_capacity(BUFFER, timed),
        }
    }
}

impl<R: Read> Iterator for Arrivals<R> {
    type Item = io::Result<(Instant, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                line.truncate(line.trim_end_matches(['\r', '\n']).len());
                Some(Ok((self.reader.get_ref().came, line)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.came = Instant::now();
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    /// Gives one part at a time.
    struct Parts(Vec<&'static str>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            // No two come at the same time.
            thread::sleep(Duration::from_millis(1));
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(part.as_bytes());
            Ok(part.len())
        }
    }

    #[test]
    fn lines_of_one_delivery_came_at_one_time() {
        let parts = Parts(vec!["a\nb\r\n\nc", "c\nd\n", "e\n"]);
        let lines = Arrivals::of(parts).collect::<io::Result<Vec<_>>>().unwrap();
        let deliveries = lines.chunk_by(|(a, _), (b, _)| a == b);
        let texts = deliveries.map(|lines| lines.iter().map(|(_, line)| &**line).collect());
        assert_eq!(
            texts.collect::<Vec<Vec<_>>>(),
            [vec!["a", "b", ""], vec!["cc", "d"], vec!["e"]]
        );
        assert!(lines.is_sorted_by_key(|(came, _)| *came));
    }
}
