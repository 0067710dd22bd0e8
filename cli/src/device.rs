//! From a device's name to the device.

use std::sync::OnceLock;

use anyhow::{anyhow, bail};
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind;
use burn::tensor::{DType, Device, DeviceType};
use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// A GPU that is compiled in and present, otherwise the CPU
    Auto,
    /// CPU
    Flex,
    /// CPU, Burn's older backend
    Ndarray,
    /// NVIDIA GPU
    Cuda,
    /// AMD GPU
    Rocm,
    /// GPU through Vulkan (SPIR-V)
    Vulkan,
    /// GPU through wgpu (WGSL)
    Wgpu,
    /// Apple GPU
    Metal,
}

/// The name of an option's value, as it is written on the command line.
pub(crate) fn value_name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

impl DeviceName {
    /// In the order in which `auto` tries them.
    const GPUS: [Self; 5] = [
        Self::Cuda,
        Self::Rocm,
        Self::Metal,
        Self::Vulkan,
        Self::Wgpu,
    ];
    const CPUS: [Self; 2] = [Self::Flex, Self::Ndarray];

    /// Whether this device computes in the machine's own memory.
    pub(crate) fn is_cpu(self) -> bool {
        Self::CPUS.contains(&self)
    }

    /// Whether this device computes in half precision unless told otherwise.
    fn prefers_half(self) -> bool {
        matches!(self, Self::Cuda | Self::Rocm | Self::Vulkan | Self::Metal)
    }
}

/// Whether [`select`] takes a GPU, if it takes anything.
pub(crate) fn is_gpu(name: DeviceName) -> bool {
    static AUTO: OnceLock<bool> = OnceLock::new();
    let found = || {
        #[cfg(feature = "gpu")]
        crate::kernels::cache();
        compiled_in(&DeviceName::GPUS)
            .iter()
            .any(Backend::has_hardware)
    };
    match name {
        DeviceName::Auto => *AUTO.get_or_init(found),
        name => !name.is_cpu(),
    }
}

/// A device that is there.
#[derive(Clone, Debug)]
pub(crate) struct SelectedDevice {
    pub name: DeviceName,
    pub device: Device,
}

/// Finds the device that was named. `auto` says on stderr which one it took.
pub(crate) fn select(name: DeviceName) -> anyhow::Result<SelectedDevice> {
    // CubeCL reads where kernels are kept when a device of its own is first asked for.
    #[cfg(feature = "gpu")]
    if !name.is_cpu() {
        crate::kernels::cache();
    }
    if name == DeviceName::Auto {
        return select_auto();
    }
    let label = value_name(name);
    let backend = Backend::compiled_in(name).ok_or_else(|| {
        anyhow!("device {label} is not compiled in: build with `--features {label}`")
    })?;
    if !backend.is_present() {
        bail!("device {label}: expected hardware and a driver for it, found none");
    }
    Ok(backend.select())
}

fn compiled_in(names: &[DeviceName]) -> Vec<Backend> {
    let backends = names.iter().copied().filter_map(Backend::compiled_in);
    backends.collect()
}

fn select_auto() -> anyhow::Result<SelectedDevice> {
    let gpus = compiled_in(&DeviceName::GPUS);
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.has_hardware()) {
        eprintln!("device: {}", value_name(gpu.name));
        return Ok(gpu.select());
    }
    let cpus = compiled_in(&DeviceName::CPUS);
    let cpu = cpus.first().ok_or_else(|| {
        anyhow!("no GPU was found and no CPU device is compiled in: build with `--features flex`")
    })?;
    let gpus = gpus.iter().map(|gpu| value_name(gpu.name));
    let why = match gpus.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "no GPU is compiled in".to_owned(),
        names => format!("no GPU found; compiled in: {names}"),
    };
    eprintln!("device: {} ({why})", value_name(cpu.name));
    Ok(cpu.select())
}

/// A device that this program was built for, present or not. Nothing is opened to make one.
struct Backend {
    name: DeviceName,
    device: Device,
    kind: DeviceType,
    /// The adapter of this backend that is the CPU in disguise.
    software: Option<Device>,
}

impl Backend {
    fn compiled_in(name: DeviceName) -> Option<Self> {
        let (kind, device, software) = match name {
            #[cfg(feature = "flex")]
            DeviceName::Flex => (DeviceType::Flex, Device::flex(), None),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated, reason = "a second opinion on the CPU, asked for by name")]
            DeviceName::Ndarray => (DeviceType::NdArray, Device::ndarray(), None),
            #[cfg(feature = "cuda")]
            DeviceName::Cuda => (DeviceType::Cuda, Device::cuda(0), None),
            #[cfg(feature = "rocm")]
            DeviceName::Rocm => (DeviceType::Rocm, Device::rocm(0), None),
            #[cfg(feature = "vulkan")]
            DeviceName::Vulkan => (
                DeviceType::Vulkan,
                Device::vulkan(DeviceKind::DefaultDevice),
                Some(Device::vulkan(DeviceKind::Cpu)),
            ),
            #[cfg(feature = "wgpu")]
            DeviceName::Wgpu => (
                DeviceType::Wgpu,
                Device::wgpu(DeviceKind::DefaultDevice),
                Some(Device::wgpu(DeviceKind::Cpu)),
            ),
            #[cfg(feature = "metal")]
            DeviceName::Metal => (
                DeviceType::Metal,
                Device::metal(DeviceKind::DefaultDevice),
                Some(Device::metal(DeviceKind::Cpu)),
            ),
            _ => return None,
        };
        Some(Self {
            name,
            device,
            kind,
            software,
        })
    }

    /// Whether it can be opened. Asked by listing, because opening a device that is not there
    /// panics.
    fn is_present(&self) -> bool {
        !Device::enumerate(self.kind.clone()).is_empty()
    }

    /// Whether it can be opened and is not a CPU in disguise.
    fn has_hardware(&self) -> bool {
        Device::enumerate(self.kind.clone())
            .iter()
            .any(|device| Some(device) != self.software.as_ref())
    }

    fn select(&self) -> SelectedDevice {
        SelectedDevice {
            name: self.name,
            device: self.device.clone(),
        }
    }
}

impl SelectedDevice {
    /// The element type to compute in: the one asked for, or the device's usual one.
    pub(crate) fn dtype(
        &self,
        asked: Option<DType>,
        checkpoint: Option<DType>,
    ) -> anyhow::Result<DType> {
        let supports = |dtype: &DType| self.device.supports_dtype(*dtype);
        if let Some(asked) = asked {
            if !supports(&asked) {
                let all = [DType::F32, DType::F16, DType::BF16];
                let supported = all.into_iter().filter(supports).map(|dtype| dtype.name());
                bail!(
                    "device {}: expected a dtype among {}, found {}",
                    value_name(self.name),
                    supported.collect::<Vec<_>>().join(", "),
                    asked.name()
                );
            }
            return Ok(asked);
        }
        let half = checkpoint.filter(|dtype| matches!(dtype, DType::F16 | DType::BF16));
        let usual = [half, Some(DType::F16)].into_iter().flatten();
        let mut usual = usual.filter(|_| self.name.prefers_half());
        Ok(usual.find(supports).unwrap_or(DType::F32))
    }
}
