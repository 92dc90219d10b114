//! kernels/measure.cu: the work that is timed is done.

use crate::{
    harness::{Device, Gpu, there_are_kernels},
    vm_driver::VmDriver,
};
use irori::backend::{
    DType,
    cuda::{
        driver::Driver,
        measure::{copy_peak, mma_peak, peaks},
        modules::MODULES,
    },
};
use ptxvm::Class;

#[test]
fn every_mma_and_every_byte_counts() {
    let Some(mut gpu) = Gpu::new(0) else { return };
    let out = gpu.out(DType::F32, 2 * 256);
    let cost = gpu.launch(&mma_peak(2, 5, gpu.address(out)));
    assert_eq!(cost.of(Class::Mma), 2 * 8 * 5 * 8, "{cost}");
    // Four elements of eight accumulators, 16 each mma.
    assert!(gpu.get(out).iter().all(|&x| x == 4.0 * 8.0 * 16.0 * 5.0));
    let bytes: Vec<u8> = (0..80_000u32).map(|i| i as u8).collect();
    let (src, dst) = (gpu.bytes(&bytes), gpu.out(DType::U8, bytes.len()));
    gpu.launch(&copy_peak(3, gpu.address(src), gpu.address(dst), bytes.len()));
    assert_eq!(gpu.bytes_of(dst), bytes);
}

#[test]
fn peaks_are_measured_by_the_devices_clock() {
    if !there_are_kernels() {
        return;
    }
    let mut driver = VmDriver::new(128 << 20, 0);
    let ledger = driver.ledger();
    driver.load(MODULES.iter().find(|m| m.name == "measure").unwrap()).unwrap();
    let peaks = peaks(&mut driver, 2).unwrap();
    // The virtual clock gives each launch a microsecond.
    assert!((peaks.flops / (28.0 * 8.0 * 8.0 * 2.0 * 8.0 * 4096.0 * 1e6) - 1.0).abs() < 1e-3, "{peaks:?}");
    assert!((peaks.bandwidth / (f64::from(32 << 20) * 1e6) - 1.0).abs() < 1e-3, "{peaks:?}");
    assert!((peaks.bus / (f64::from(16 << 20) * 1e6) - 1.0).abs() < 1e-3, "{peaks:?}");
    let small = measure_small();
    assert!(small.contains("only 4 MiB are free"), "{small}");
    assert_eq!(ledger.lock().unwrap().allocations.len(), 2);
}

/// Where too little is free for a figure that means something.
fn measure_small() -> String {
    peaks(&mut VmDriver::new(4 << 20, 0), 2).unwrap_err().to_string()
}
