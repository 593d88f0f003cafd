"""What a program's text is read as, against a program written by hand; the account of a real one where it compiles."""

from hlo_text import computations, kernels, shape_bytes

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused_add (parameter_0: f32[8,4], parameter_1: s32[]) -> f32[2,4] {
  %parameter_0 = f32[8,4]{1,0} parameter(0)
  %parameter_1 = s32[] parameter(1)
  %dynamic-slice.1 = f32[2,4]{1,0} dynamic-slice(%parameter_0, %parameter_1, %parameter_1), dynamic_slice_sizes={2,4}
  ROOT %add.1 = f32[2,4]{1,0} add(%dynamic-slice.1, %dynamic-slice.1), metadata={op_name="jit(step)/optimizer/add"}
}

%gemm (parameter_0.1: bf16[6,5], parameter_1.1: bf16[5,7]) -> bf16[6,7] {
  %parameter_0.1 = bf16[6,5]{1,0} parameter(0)
  %parameter_1.1 = bf16[5,7]{1,0} parameter(1)
  ROOT %dot.1 = bf16[6,7]{1,0} dot(%parameter_0.1, %parameter_1.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (carry: (s32[], f32[10])) -> (s32[], f32[10]) {
  %carry = (s32[], f32[10]{0}) parameter(0)
  %count = s32[] get-tuple-element(%carry), index=0
  %values = f32[10]{0} get-tuple-element(%carry), index=1
  %copy.1 = f32[10]{0} copy(%values)
  ROOT %tuple = (s32[], f32[10]{0}) tuple(%count, %copy.1)
}

ENTRY %main (x: bf16[2,3,8,8,8], w: bf16[16,3,3,3,3], a: bf16[6,5], b: bf16[5,7], p: f32[8,4], i: s32[]) -> f32[2,4] {
  %x = bf16[2,3,8,8,8]{4,3,2,1,0} parameter(0)
  %w = bf16[16,3,3,3,3]{4,3,2,1,0} parameter(1)
  %a = bf16[6,5]{1,0} parameter(2)
  %b = bf16[5,7]{1,0} parameter(3)
  %p = f32[8,4]{1,0} parameter(4)
  %i = s32[] parameter(5)
  %conv = (bf16[2,16,8,8,8]{4,3,2,1,0}, u8[64]{0}) custom-call(%x, %w), window={size=3x3x3 pad=1_1x1_1x1_1}, \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convForward"
  %y = bf16[2,16,8,8,8]{4,3,2,1,0} get-tuple-element(%conv), index=0
  %grad = (bf16[16,3,3,3,3]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3x3 pad=1_1x1_1x1_1}, \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convBackwardFilter"
  %gemm_fusion = bf16[6,7]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm
  %all-reduce-start = f32[8,4]{1,0} all-reduce-start(%p), to_apply=%add
  %all-reduce-done = f32[8,4]{1,0} all-reduce-done(%all-reduce-start)
  %while = (s32[], f32[10]{0}) while(%start), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %add_fusion = f32[2,4]{1,0} fusion(%all-reduce-done, %i), kind=kLoop, calls=%fused_add
}
"""


def test_computations_and_the_entry():
    found, entry = computations(PROGRAM)
    assert list(found) == ["fused_add", "gemm", "body", "main"]
    assert entry == "main"
    assert found["fused_add"][2][1:4] == (
        "f32[2,4]{1,0}",
        "dynamic-slice",
        ("parameter_0", "parameter_1", "parameter_1"),
    )


def test_bytes_of_shapes():
    assert shape_bytes("(bf16[2,3]{1,0}, pred[], u8[0]{0}, f32[5]{0})") == 12 + 1 + 20


def test_kernels():
    found = {kernel.name: kernel for kernel in kernels(PROGRAM)}
    assert list(found) == ["conv", "grad", "gemm_fusion", "all-reduce-start", "copy.1", "add_fusion"]
    x, w, y = 2 * 2 * 3 * 512, 2 * 16 * 81, 2 * 2 * 16 * 512
    products = 2 * 2 * 16 * 512 * 81
    assert found["conv"][1:] == ("convolution", 1, x + w + y + 64, products, "bf16", ("forward", "NCDHW"), None)
    assert found["grad"][1:] == ("convolution", 1, x + w + y, products, "bf16", ("kernel gradient", "NCDHW"), None)
    assert found["gemm_fusion"][1:5] == ("matrix product", 1, 2 * (30 + 35 + 42), 2 * 30 * 7)
    assert found["all-reduce-start"][1:4] == ("collective", 1, 2 * 128)
    assert found["all-reduce-start"].collective == "all-reduce"
    assert found["copy.1"][1:4] == ("transpose, copy", 3, 3 * 80)
    # Of the 8 x 4 numbers two rows are read, with the index, and two written.
    assert found["add_fusion"][1:4] == ("optimiser", 1, 32 + 4 + 32)
