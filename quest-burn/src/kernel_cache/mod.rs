//! Compiled kernels and tuning results on disk, for all processes.
//!
//! CubeCL compiles a kernel when it is first launched, and measures candidates where it tunes one.
//! Without a cache a process does all of that anew, which takes longer than most answers.
//! [`KernelCacheConfig::init`] keeps both in a database below the user's cache folder; it has to be
//! called before the first device is opened, as CubeCL reads its configuration once.
//!
//! A database belongs to one version of this crate, one driver and one set of GPUs, and its entries
//! to one build of the program: what another wrote is never loaded. A cache that cannot be written
//! is no error. Kernels are then compiled as if there were none.
//!
//! CubeCL stores kernels for CUDA (PTX), ROCm and Vulkan (SPIR-V). WGSL is compiled by the driver
//! in every process.

mod database;
mod driver;

use std::path::{Path, PathBuf};

use cubecl::{
    config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig},
    environment,
    records::RecordLevel,
};
use etcetera::BaseStrategy;

/// Configuration of the cache of compiled kernels.
///
/// The variable `QUEST_KERNEL_CACHE` names another folder, or turns the cache off where it is `off`.
/// A `cubecl.toml` that names an environment of its own is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCacheConfig {
    folder: Option<PathBuf>,
    max_bytes: u64,
}

/// Where compiled kernels are kept by this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCache {
    state: KernelCacheState,
    folder: Option<PathBuf>,
    max_bytes: u64,
    discarded: Option<String>,
}

/// Whether compiled kernels are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelCacheState {
    /// In this file.
    File(PathBuf),
    /// For this process only, for this reason.
    Memory(String),
}

impl KernelCacheConfig {
    /// The variable that names a folder, or is `off`.
    pub const VARIABLE: &str = "QUEST_KERNEL_CACHE";
    const OFF: &str = "off";
    const MAX_BYTES: u64 = 1 << 30;

    /// In the folder that [`VARIABLE`](Self::VARIABLE) names, else below the user's cache folder, and
    /// of at most 1 GiB.
    pub fn new() -> Self {
        let folder = match std::env::var_os(Self::VARIABLE) {
            Some(off) if off == Self::OFF => None,
            Some(folder) if !folder.is_empty() => Some(PathBuf::from(folder)),
            _ => etcetera::choose_base_strategy()
                .ok()
                .map(|strategy| strategy.cache_dir().join("quest-burn").join("kernels")),
        };
        Self {
            folder,
            max_bytes: Self::MAX_BYTES,
        }
    }

    /// In another folder.
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Of at most so many bytes. The files that were written longest ago are deleted first, and where
    /// the file in use alone is larger it is begun again. Checked once, by [`init`](Self::init).
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Turns the cache on for this process.
    ///
    /// The first call decides; CubeCL keeps its configuration from then on, or from the first time
    /// that a device is opened.
    pub fn init(self) -> KernelCache {
        let cache = |state, discarded| KernelCache {
            state,
            folder: self.folder.clone(),
            max_bytes: self.max_bytes,
            discarded,
        };
        let memory = |reason: &str| cache(KernelCacheState::Memory(reason.to_owned()), None);
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        let named = config.environment.name != environment::DEFAULT;
        if named || !matches!(config.environment.path, CacheConfig::Target) {
            return match CubeClRuntimeConfig::try_set(config) {
                true => cache(KernelCacheState::File(environment::path()), None),
                false => memory("CubeCL was in use already"),
            };
        }
        let Some(folder) = &self.folder else {
            config.compilation.cache = false;
            config.autotune.disable_cache = true;
            CubeClRuntimeConfig::try_set(config);
            return match std::env::var_os(Self::VARIABLE) {
                Some(_) => memory("turned off"),
                None => memory("there is no cache folder for this user"),
            };
        };
        let name = driver::environment_name();
        let file = folder.join(environment::file_name(&name));
        let discarded = database::prepare(&file, self.max_bytes);
        config.environment.name = name;
        config.environment.path = CacheConfig::Directory(folder.clone());
        config.environment.records.level = RecordLevel::Off;
        config.compilation.cache = true;
        if !CubeClRuntimeConfig::try_set(config) {
            return memory("CubeCL was in use already");
        }
        match database::open(&file) {
            Ok(()) => cache(KernelCacheState::File(file), discarded),
            Err(reason) => cache(KernelCacheState::Memory(reason), discarded),
        }
    }
}

impl Default for KernelCacheConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl KernelCache {
    /// Whether kernels are kept, and where.
    pub fn state(&self) -> &KernelCacheState {
        &self.state
    }

    /// The folder that was asked for.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Bytes that all databases in the folder take on disk.
    pub fn bytes(&self) -> u64 {
        self.folder.as_deref().map_or(0, database::total_bytes)
    }

    /// Bytes that the databases may take together when the cache is opened.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// What was deleted when the cache was opened because it could not be used, and why.
    pub fn discarded(&self) -> Option<&str> {
        self.discarded.as_deref()
    }
}
