# Renders one of integrations/foreman as Foreman does: ERB with trim mode "-", under Safemode.
#
#   render.rb: reads lines of JSON, {"template": FILE, "scope": {…}}, and answers each with one,
#   {"text": …} or {"error": …}
#
# With BEDPLATE_SAFEMODE=DIRECTORY (the lib directory of the safemode gem) the real thing is used.
# Without it the compiled template is parsed and refused where Safemode would: by the kinds of
# syntax, constants, and every method that neither core classes nor the host's may be asked for
# there. Hosts, cards and subnets answer to what their jails allow, and to nothing else.

require 'erb'
require 'json'
require 'yaml'
require 'ruby_parser'

REAL = ENV['BEDPLATE_SAFEMODE']

if REAL
  $LOAD_PATH.unshift(REAL)
  require 'safemode'
end

# What Foreman's jails allow of each, as far as a plan could want it.
MEMBERS = {
  'Host' => %i[id name shortname mac ip ip6 operatingsystem architecture medium ptable diskLayout
               subnet subnet6 domain provision_interface primary_interface interfaces token
               ssh_authorized_keys params],
  'Card' => %i[mac ip ip6 identifier subnet subnet6 tag virtual? primary provision],
  'Subnet' => %i[network mask cidr gateway dns_servers dns_primary vlanid mtu boot_mode
                 dhcp_boot_mode?],
  'Token' => %i[id host value expires]
}

# One object of Foreman's; a member that the scope does not give is nil, one it may not have fails.
class Thing
  def initialize(kind, values)
    @kind, @values = kind, values
  end

  def method_missing(name, *)
    raise NoMethodError, "#{@kind} has no #{name}" unless MEMBERS.fetch(@kind).include?(name)
    @values[name.to_s]
  end

  def respond_to_missing?(name, *)
    MEMBERS.fetch(@kind).include?(name)
  end
end

KINDS = MEMBERS.to_h do |kind, members|
  klass = Class.new(Thing) { define_method(:initialize) { |values| super(kind, values) } }
  Object.const_set(kind, klass)
  members.each { |name| klass.define_method(name) { @values[name.to_s] } }
  if REAL
    jail = Class.new(Safemode::Jail)
    klass.const_set('Jail', jail)
    jail.allow(*members, :nil?)
  end
  [kind, klass]
end

def thing(kind, values)
  values && KINDS.fetch(kind).new(values)
end

def card(values)
  values && thing('Card', values.merge('subnet' => thing('Subnet', values['subnet']),
                                       'subnet6' => thing('Subnet', values['subnet6'])))
end

# The macros, as Foreman documents them; only these may be called.
class Macros
  NAMES = %i[foreman_url foreman_server_url host_param host_param! host_param_true?
             pxe_kernel_options snippet to_yaml to_json parse_yaml raise]

  def foreman_url(action = 'provision', params = {})
    params = params.map { |key, value| [key.to_s, value] }.to_h
    params['token'] = $scope['token'] if $scope['token']
    query = params.map { |key, value| "#{key}=#{value}" }.join('&')
    "#{$scope['unattended_url']}/unattended/#{action}#{query.empty? ? '' : "?#{query}"}"
  end

  def foreman_server_url
    $scope['foreman_url']
  end

  def host_param(name, default = nil)
    $scope['params'].fetch(name, default)
  end

  def host_param!(name)
    $scope['params'].fetch(name) { Kernel.raise("host parameter #{name} is missing") }
  end

  def host_param_true?(name)
    [true, 'true', 'yes', '1', 1].include?($scope['params'][name])
  end

  def pxe_kernel_options
    $scope['params'].fetch('kernelcmd', '')
  end

  def snippet(name)
    rendered("#{$folder}/#{name}.erb")
  end

  def to_yaml(value)
    value.to_yaml
  end

  def to_json(value)
    JSON.generate(value)
  end

  def parse_yaml(text)
    YAML.safe_load(text)
  end

  def raise(words)
    Kernel.raise(words)
  end
end

MACROS = Macros.new

def host
  values = $scope['host']
  layout = $scope['layout'] || rendered("#{$folder}/bedplate_storage.erb", nil)
  thing('Host', values.merge('provision_interface' => card(values['provision_interface']),
                             'token' => thing('Token', $scope['token'] && { 'value' => $scope['token'] }),
                             'diskLayout' => layout))
end

# Kinds of syntax that Safemode refuses (its parser.rb), and what its core jails lack.
REFUSED = %i[defn defs alias valias undef class attrset module sclass colon3 block_arg postexe redo
             retry begin rescue resbody ensure defined super zsuper return match attrasgn cdecl
             cvasgn cvdecl cvar gvar gasgn xstr dxstr dregx dregx_once match2 match3 nth_ref
             back_ref block_pass iasgn colon2 lambda]
CORE = %i[+ - * == != ! && || << [] > < >= <= +@ any? empty? length map flatten merge zip join split
          strip gsub include? to_i to_s freeze nil? each select reject first last start_with?
          end_with? downcase upcase sub slice rjust]
VARIABLES = %i[@host @kernel @initrd @kernel_uri @initrd_uri @static]

def check(node, where)
  return unless node.is_a?(Sexp)
  kind = node.first
  fail "#{where}: Safemode refuses #{kind}" if REFUSED.include?(kind)
  fail "#{where}: constant #{node[1]}" if kind == :const && node[1] != :String
  fail "#{where}: variable #{node[1]}" if kind == :ivar && !VARIABLES.include?(node[1])
  if %i[call safe_call].include?(kind)
    name = node[2]
    allowed = node[1].nil? ? Macros::NAMES + [:_erbout] : CORE + MEMBERS.values.flatten
    fail "#{where}: calls #{name}" unless allowed.include?(name)
  end
  node.each { |child| check(child, where) }
end

# What a checked template is evaluated in: macros, the host, and nothing else.
class Scope < BasicObject
  def initialize(host)
    @host = host
  end

  def method_missing(name, *arguments, **named, &block)
    ::Kernel.raise(::NoMethodError, "no macro #{name}") unless ::Macros::NAMES.include?(name)
    named.empty? ? ::MACROS.public_send(name, *arguments, &block) : ::MACROS.public_send(name, *arguments, named, &block)
  end

  def respond_to_missing?(name, *)
    ::Macros::NAMES.include?(name)
  end
end

def rendered(file, of = host)
  source = File.read(file).sub(/\A<%#.*?-?%>\n?/m, '')
  code = ERB.new(source, trim_mode: '-').src
  if REAL
    box = Safemode::Box.new(MACROS, Macros::NAMES)
    return box.eval(code, { host: of }, {}).to_s
  end
  check(RubyParser.new.parse(code), file)
  Scope.new(of).instance_eval(code, file)
end

$stdout.sync = true
$stdin.each_line do |line|
  job = JSON.parse(line)
  $scope, $folder = job['scope'], File.dirname(job['template'])
  begin
    answer = { 'text' => rendered(job['template']) }
  rescue StandardError, SyntaxError, SecurityError => e
    answer = { 'error' => "#{e.class}: #{e.message}" }
  end
  puts JSON.generate(answer)
end
