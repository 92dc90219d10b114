use super::*;
use half::{bf16, f16};

#[test]
fn write_read_copy_zero() {
    let mut r = Rig::new(1);
    let (a, b, c) = (r.f32(&[1.0, 2.0, 3.0]), r.out(DType::F32, 3), r.out(DType::U32, 3));
    r.start(0);
    r.be.write(a, bytemuck::cast_slice(&[9.0f32])).unwrap();
    r.be.run(&Copy { src: a, dst: b }.into()).unwrap();
    assert_eq!(r.get(b), [9.0, 2.0, 3.0]);
    r.be.run(&Zero { dst: b.slice(1, 1) }.into()).unwrap();
    assert_eq!(r.get(b), [9.0, 0.0, 3.0]);
    assert_eq!(r.be.write(a, &[0; 13]).unwrap_err().to_string(), "write: 13 bytes into a buffer of 12");
    assert_eq!(r.be.run(&Copy { src: a, dst: c }.into()).unwrap_err().to_string(), "copy: 3 F32 to 3 U32");
    assert!(r.be.run(&Copy { src: a, dst: a }.into()).unwrap_err().to_string().contains("overlaps"));
}

#[test]
fn elements_are_converted_with_one_rounding_to_even() {
    let x = [1.0f32, 1.003_906_3, 1.011_718_8, -1.003_906_4, f32::INFINITY, f32::NAN, 3.4e38, 1e-40];
    let mut r = Rig::new(1);
    let (src, dst, same) = (r.f32(&x), r.out(DType::Bf16, 8), r.out(DType::F32, 8));
    let (loaded, f32s) = (r.out(DType::Bf16, 8), r.out(DType::F32, 8));
    r.start(0);
    r.be.run(&Convert { src, dst }.into()).unwrap();
    r.be.run(&Convert { src, dst: same }.into()).unwrap();
    r.be.run(&Convert { src, dst: src }.into()).unwrap();
    let want: Vec<u16> = x.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
    let bits = |r: &mut Rig, b| bytemuck::pod_collect_to_vec::<u8, u16>(&r.be.read(b).unwrap());
    assert_eq!(bits(&mut r, dst), want);
    assert_eq!(r.get(same)[..5], x[..5]);

    let halves: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
    let mut bytes = vec![0];
    bytes.extend_from_slice(bytemuck::cast_slice(&halves));
    let src = HostTensor { dtype: DType::F16, bytes: &bytes[1..] };
    r.be.run(&LoadDense { src, dst: f32s }.into()).unwrap();
    r.be.run(&LoadDense { src, dst: loaded }.into()).unwrap();
    assert_eq!(r.get(f32s)[..5], halves[..5].iter().map(|h| h.to_f32()).collect::<Vec<_>>()[..]);
    assert_eq!(
        bits(&mut r, loaded)[..5],
        halves[..5].iter().map(|h| bf16::from_f32(h.to_f32()).to_bits()).collect::<Vec<_>>()
    );
    r.be.run(
        &LoadDense { src: HostTensor { dtype: DType::Bf16, bytes: bytemuck::cast_slice(&want) }, dst: loaded }.into(),
    )
    .unwrap();
    assert_eq!(bits(&mut r, loaded), want);
    assert!(r.be.run(&LoadDense { src: HostTensor { dtype: DType::U8, bytes: &[0; 8] }, dst: f32s }.into()).is_err());
    assert!(r.be.run(&LoadDense { src: HostTensor { dtype: DType::F32, bytes: &[0; 28] }, dst: f32s }.into()).is_err());
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let mut be = CpuBackend::new(Some(1)).unwrap();
    let error = be.allocate(1 << 60, 0, Buffer::empty(DType::U8)).unwrap_err().to_string();
    assert!(error.contains("no 1152921504606846976 bytes"), "{error}");
    assert!(be.read(Layout::new().take(Kind::Batch, DType::U32, 1)).is_err(), "nothing was allocated");
}

#[test]
fn quantising_refuses_cut_blocks() {
    let mut r = Rig::new(1);
    let (packed, absmax) = (r.out(DType::U8, 32), r.out(DType::F32, 1));
    r.start(0);
    let bytes = [0; 4 * 65];
    assert!(
        r.be.run(&LoadNf4 { src: HostTensor { dtype: DType::F32, bytes: &bytes }, packed, absmax }.into()).is_err()
    );
    r.be.run(&LoadNf4 { src: HostTensor { dtype: DType::F32, bytes: &bytes[..256] }, packed, absmax }.into()).unwrap();
    assert_eq!(r.be.read(packed).unwrap(), [0x77; 32]);
}
