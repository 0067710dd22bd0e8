use std::{
    cell::RefCell,
    io::{Write, stdout},
};

use anyhow::{Result, bail};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use clap::Parser;
use quest_burn::{PageSharing, kernels};
use serde::Serialize;

use crate::timing::{Timing, sync, time};

/// Bytes that the caches in turn must exceed together, several times a last-level cache.
const ROTATED_BYTES: usize = 256 << 20;

#[derive(Parser, Debug)]
#[command(about, version)]
pub struct Options {
    /// Query and KV heads, e.g. `32:32,32:8`
    #[arg(long, value_delimiter = ',', default_value = "32:32,32:8")]
    heads: Vec<String>,
    /// Tokens of context
    #[arg(long, value_delimiter = ',', default_value = "8192,32768,131072")]
    contexts: Vec<usize>,
    /// Tokens that are attended to
    #[arg(long, default_value_t = 2048)]
    budget: usize,
    #[arg(long, default_value_t = 16)]
    page_size: usize,
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// f32, f16 or bf16
    #[arg(long, default_value = "f16")]
    dtype: String,
    /// Only these: scores, top, sparse, quest (the three), fused (the three in fewer launches), dense
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    device: &'a str,
    dtype: &'a str,
    batch: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    page_size: usize,
    context: usize,
    budget: usize,
    bytes: usize,
    gb_per_s: f64,
    #[serde(flatten)]
    timing: Timing,
}

/// One layer's cache, with everything that the operations make of it.
struct Cache {
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    digests: Tensor<4>,
    scores: Tensor<3>,
    pages: Tensor<3, Int>,
    counters: RefCell<Option<Tensor<1, Int>>>,
}

struct Problem<'a> {
    options: &'a Options,
    dtype: DType,
    device: &'a Device,
    heads: [usize; 2],
    context: usize,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
}

impl Problem<'_> {
    fn n_pages(&self) -> usize {
        self.context.div_ceil(self.options.page_size)
    }
    fn k(&self) -> usize {
        (self.options.budget / self.options.page_size).min(self.n_pages())
    }

    fn cache(&self, values: bool) -> Cache {
        let [n_heads, n_kv_heads] = self.heads;
        let Options {
            batch,
            page_size,
            head_dim,
            ..
        } = *self.options;
        let normal = Distribution::Normal(0.0, 1.0);
        let on = (self.device, self.dtype);
        let pool = [batch * self.n_pages(), n_kv_heads, page_size, head_dim];
        let query = Tensor::random([batch, n_heads, head_dim], normal, on);
        let keys = Tensor::random(pool, normal, on);
        let values = if values {
            Tensor::random(pool, normal, on)
        } else {
            keys.clone()
        };
        let digests = Tensor::cat(vec![keys.clone().min_dim(2), keys.clone().max_dim(2)], 2);
        sync(self.device);
        let scores = self.scores(&query, &digests);
        let pages = self.top(&scores);
        sync(self.device);
        Cache {
            query,
            keys,
            values,
            digests,
            scores,
            pages,
            counters: RefCell::new(Some(kernels::counters(batch, n_kv_heads, self.device))),
        }
    }

    fn scores(&self, query: &Tensor<3>, digests: &Tensor<4>) -> Tensor<3> {
        kernels::page_scores(
            query.clone(),
            digests.clone(),
            self.page_table.clone(),
            self.lengths.clone(),
            self.options.page_size,
            PageSharing::KvHead,
            self.n_pages(),
        )
    }

    fn top(&self, scores: &Tensor<3>) -> Tensor<3, Int> {
        let page_size = self.options.page_size;
        kernels::top_pages(
            scores.clone(),
            self.lengths.clone(),
            page_size,
            self.k(),
            true,
            0,
        )
    }

    fn best(&self, cache: &Cache) -> Tensor<3> {
        let (out, counters) = kernels::best_attention(
            cache.query.clone(),
            cache.keys.clone(),
            cache.values.clone(),
            cache.digests.clone(),
            self.page_table.clone(),
            self.lengths.clone(),
            cache.counters.take().expect("counters are given back"),
            1.0 / (self.options.head_dim as f32).sqrt(),
            kernels::BestPages {
                k: self.k(),
                pin_newest: true,
                sink_pages: 0,
                sharing: PageSharing::KvHead,
                n_pages_bound: self.n_pages(),
            },
        );
        cache.counters.replace(Some(counters));
        out
    }

    fn attend(&self, cache: &Cache, pages: Option<Tensor<3, Int>>) -> Tensor<3> {
        let (out, counters) = kernels::paged_attention(
            cache.query.clone(),
            cache.keys.clone(),
            cache.values.clone(),
            pages,
            self.page_table.clone(),
            self.lengths.clone(),
            cache.counters.take().expect("counters are given back"),
            1.0 / (self.options.head_dim as f32).sqrt(),
            self.n_pages(),
        );
        cache.counters.replace(Some(counters));
        out
    }
}

pub fn run(options: &Options) -> Result<()> {
    let device = Device::default();
    let dtype = match options.dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => bail!("dtype: expected f32, f16 or bf16, found {other}"),
    };
    if !kernels::supports(&device, dtype, options.head_dim) {
        bail!(
            "{device:?} does not run the kernels with {dtype:?} and head dim {}",
            options.head_dim
        );
    }
    for heads in &options.heads {
        let parsed: Vec<usize> = heads.split(':').filter_map(|n| n.parse().ok()).collect();
        let [n_heads, n_kv_heads] = parsed[..] else {
            bail!("heads: expected query:kv, as in 32:8, found {heads}");
        };
        for &context in &options.contexts {
            let n_pages = context.div_ceil(options.page_size);
            let entries: Vec<i32> = (0..(options.batch * n_pages) as i32).collect();
            let lengths = vec![context as i32; options.batch];
            let problem = Problem {
                options,
                dtype,
                device: &device,
                heads: [n_heads, n_kv_heads],
                context,
                page_table: Tensor::from_data(
                    TensorData::new(entries, [options.batch, n_pages]),
                    (&device, DType::I32),
                ),
                lengths: Tensor::from_data(
                    TensorData::new(lengths, [options.batch]),
                    (&device, DType::I32),
                ),
            };
            measure(&problem)?;
        }
    }
    Ok(())
}

fn measure(problem: &Problem<'_>) -> Result<()> {
    let options = problem.options;
    let [n_heads, n_kv_heads] = problem.heads;
    let row = options.batch * n_kv_heads * options.head_dim * problem.dtype.size();
    let digest_bytes = problem.n_pages() * 2 * row;
    let score_bytes = problem.n_pages() * options.batch * n_kv_heads * size_of::<f32>();
    let sparse_bytes = problem.k() * options.page_size * 2 * row;
    let dense_bytes = problem.context * 2 * row;
    let wanted = |what: &str| options.only.is_empty() || options.only.iter().any(|o| o == what);
    let print = |what: &str, bytes: usize, timing: Timing| -> Result<()> {
        let line = Line {
            what,
            device: &format!("{:?}", problem.device),
            dtype: &options.dtype,
            batch: options.batch,
            n_heads,
            n_kv_heads,
            head_dim: options.head_dim,
            page_size: options.page_size,
            context: problem.context,
            budget: options.budget,
            bytes,
            gb_per_s: bytes as f64 / timing.median_us / 1e3,
            timing,
        };
        writeln!(stdout(), "{}", serde_json::to_string(&line)?)?;
        Ok(())
    };

    let touched = digest_bytes.min(sparse_bytes).max(1);
    let rotation = ROTATED_BYTES.div_ceil(touched).clamp(2, 64);
    let rotation = rotation.min(((60usize << 30) / dense_bytes).max(2));
    let caches: Vec<Cache> = (0..rotation).map(|_| problem.cache(true)).collect();
    let device = problem.device;
    if wanted("scores") {
        let timing = time(device, rotation, |i| {
            problem.scores(&caches[i].query, &caches[i].digests)
        });
        print("scores", digest_bytes, timing)?;
    }
    if wanted("top") {
        let timing = time(device, rotation, |i| problem.top(&caches[i].scores));
        print("top", score_bytes, timing)?;
    }
    if wanted("sparse") {
        let timing = time(device, rotation, |i| {
            problem.attend(&caches[i], Some(caches[i].pages.clone()))
        });
        print("sparse", sparse_bytes, timing)?;
    }
    if wanted("quest") {
        let timing = time(device, rotation, |i| {
            let scores = problem.scores(&caches[i].query, &caches[i].digests);
            let pages = problem.top(&scores);
            problem.attend(&caches[i], Some(pages))
        });
        print("quest", digest_bytes + sparse_bytes, timing)?;
    }
    if wanted("fused") {
        let timing = time(device, rotation, |i| problem.best(&caches[i]));
        print("fused", digest_bytes + sparse_bytes, timing)?;
    }
    if wanted("dense") {
        let timing = time(device, rotation.min(4), |i| {
            problem.attend(&caches[i], None)
        });
        print("dense", dense_bytes, timing)?;
    }
    Ok(())
}
