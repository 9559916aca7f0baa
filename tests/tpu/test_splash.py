"""The Splash kernel in a layer on four chips, compiled for TPUs without any."""

PROGRAM = """
import jax
import jax.numpy as jnp
from bertjax.config import BertConfig, Execution
from bertjax.model.encoder import Encoder
from bertjax.plan.chips import parse_topology
from bertjax.plan.compile import topology_devices
from bertjax.train import sharding

devices = topology_devices(parse_topology("v5e:2x2"))
mesh = sharding.make_mesh(sharding.MeshConfig(data=2, tensor=2), devices)
fields = {"num_hidden_layers": 1, "attention_probs_dropout_prob": 0.0}
config = BertConfig.named("tiny", vocab_size=100, **fields)
encoder = Encoder(config, Execution(dtype="bfloat16", attention="splash"))
rows = sharding.batch_sharding(mesh)
x = jax.ShapeDtypeStruct((8, 256, config.hidden_size), jnp.bfloat16, sharding=rows)
real = jax.ShapeDtypeStruct((8, 256), bool, sharding=rows)
params = jax.eval_shape(encoder.init, jax.random.key(0), x)
params = sharding.placed(params, sharding.param_shardings(mesh, params))

def loss(params, x, real):
    return encoder.apply(params, x, mask=real[:, None, None])[0].astype(jnp.float32).sum()

gradients = sharding.on_mesh(mesh, jax.grad(loss, argnums=(0, 1)))
program = jax.jit(gradients).lower(params, x, real).compile().as_text()
print(program.count('custom_call_target="tpu_custom_call"'), program.count(" all-gather"))
"""


def test_each_chip_runs_the_kernel_on_its_rows_and_heads(run_python):
    # One kernel forward and one backward, and nothing of a row is sent.
    assert run_python("-c", PROGRAM).split()[-2:] == ["2", "0"]
