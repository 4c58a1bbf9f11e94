#Requires -Version 5.1
<#
.SYNOPSIS
Installs Karez as a Windows service, with the nats-server that it brings, and starts it; run it again to update.

.DESCRIPTION
Needs administrator rights, Python 3.11 or newer installed for all users, and a file .env beside the configuration. It downloads the
Python packages that Karez needs, from wherever pip is told to, and nothing else: no RabbitMQ, no Erlang, no Celery, no service wrapper.

.EXAMPLE
.\deploy\windows\startup.ps1 -Verbose -Debug
Requests and schedule together, with examples\data_connector.

.EXAMPLE
.\deploy\windows\startup.ps1 -Folder C:\DataConnector -Mode Schedule

.EXAMPLE
.\deploy\windows\startup.ps1 -Uninstall
Removes the service and the programs; what was stored and logged stays, unless -RemoveData is given.
#>
[CmdletBinding()]
param(
    # Folder with the configuration and .env.
    [string] $Folder = (Join-Path $PSScriptRoot '..\..\examples\data_connector'),
    # Configuration file in that folder.
    [string] $Config = 'config.yaml',
    # Request: only what is asked for over HTTP. Schedule: only by itself. Both: both.
    [ValidateSet('Request', 'Schedule', 'Both')]
    [string] $Mode = 'Both',
    # Folder for the programs, the stored data and the logs.
    [string] $Root = (Join-Path $env:ProgramData 'Karez'),
    # What pip installs Karez from: this copy of the repository, unless given.
    [string] $Source = (Join-Path $PSScriptRoot '..\..'),
    # Parts of Karez that are installed, by the names in pyproject.toml.
    [string] $Extras = 'server,api,postgres,mysql',
    # Python to be used; unless given the newest one that the launcher py knows, or the one on the PATH.
    [string] $Python,
    [string] $ServiceName = 'Karez',
    # Remove the service and the programs.
    [switch] $Uninstall,
    # With -Uninstall: remove what was stored and logged as well.
    [switch] $RemoveData
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
if ($DebugPreference -eq 'Inquire') {
    # Windows PowerShell would ask before each line
    $DebugPreference = 'Continue'
}

# groups by their SID: their names are translated
$Administrators = '*S-1-5-32-544'
$System = '*S-1-5-18'
$Account = "NT SERVICE\$ServiceName"
$Key = "HKLM:\SYSTEM\CurrentControlSet\Services\$ServiceName"
# no backslash at the end: it would escape the quote after it
$Root = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Root).TrimEnd('\')
$Venv = Join-Path $Root 'venv'
$Bin = Join-Path $Root 'bin'
$Data = Join-Path $Root 'data'
$Logs = Join-Path $Root 'logs'
$VenvPython = Join-Path $Venv 'Scripts\python.exe'
$Program = Join-Path $Bin 'Karez.exe'

function Invoke-Program {
    # Run a program; an exit code that is not 0 is an error with this text.
    param([string] $Path, [string[]] $Arguments, [string] $Failure)
    Write-Debug "$Path $($Arguments -join ' ')"
    & $Path @Arguments | Out-Host
    if ($LASTEXITCODE -ne 0) {
        throw "$Failure (exit code $LASTEXITCODE of $Path)"
    }
}

function Assert-Administrator {
    $user = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
    if (-not $user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'This needs administrator rights: open PowerShell with "Run as administrator" and start it again.'
    }
}

function Get-PythonVersion {
    # Major, minor and folder of a Python; nothing if it does not run, as the placeholder of the Microsoft Store does not.
    param([string] $Path, [string[]] $Arguments)
    if (-not (Get-Command $Path -ErrorAction SilentlyContinue)) {
        return
    }
    $code = 'import sys; print(sys.version_info[0], sys.version_info[1], sys.base_prefix, sys.executable, sep=chr(124))'
    $said = & $Path @Arguments '-c' $code
    if ($LASTEXITCODE -eq 0 -and $said) {
        $parts = "$said".Split('|')
        [pscustomobject]@{ Version = [version]"$($parts[0]).$($parts[1])"; Folder = $parts[2]; Path = $parts[3] }
    }
}

function Find-Python {
    # The path of a Python that a service can use.
    $found = @(
        if ($Python) {
            Get-PythonVersion -Path $Python -Arguments @()
        }
        else {
            Get-PythonVersion -Path 'py' -Arguments @('-3')
            Get-PythonVersion -Path 'python' -Arguments @()
        }
    )
    foreach ($one in $found) {
        Write-Debug "Python $($one.Version) in $($one.Folder)"
        if ($one.Version -lt [version]'3.11') {
            Write-Verbose "$($one.Path) is Python $($one.Version), which is too old."
        }
        elseif ($one.Folder -like "$(Join-Path $env:SystemDrive 'Users')\*" -or $one.Folder -like '*\WindowsApps\*') {
            Write-Verbose "$($one.Path) belongs to one user, or to the Microsoft Store: a service cannot use it."
        }
        else {
            return $one.Path
        }
    }
    $remedy = 'install one from python.org with "Install for all users", or name one with -Python'
    throw "There is no Python 3.11 or newer that is installed for all users: $remedy."
}

function Assert-Settings {
    # There is a configuration and an .env, without a placeholder of example.env in it.
    if (-not (Test-Path -LiteralPath (Join-Path $Folder $Config) -PathType Leaf)) {
        throw "There is no $Config in ${Folder}: name the folder with -Folder and the file with -Config."
    }
    $settings = Join-Path $Folder '.env'
    if (-not (Test-Path -LiteralPath $settings -PathType Leaf)) {
        throw "There is no .env in ${Folder}: copy example.env to .env there, and write your values into it."
    }
    $placeholder = '^\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*<[^<>]*>\s*$'
    $left = @(Select-String -LiteralPath $settings -Pattern $placeholder | ForEach-Object { $_.Matches[0].Groups[1].Value })
    if ($left.Count -gt 0) {
        throw "$settings still has placeholders: write your values for $($left -join ', '), without < and >."
    }
}

function Stop-Karez {
    # Stop the service if there is one, and wait until its files are free.
    $service = Get-Service -Name $ServiceName -ErrorAction SilentlyContinue
    if ($service -and $service.Status -ne 'Stopped') {
        Write-Verbose "Stops the service $ServiceName, which drains first."
        Stop-Service -Name $ServiceName -Force
        $service.WaitForStatus('Stopped', [timespan]::FromSeconds(60))
    }
}

function Install-Package {
    # A virtual environment with Karez, made anew when it is of another Python.
    $path = Find-Python
    if ((Test-Path -LiteralPath $VenvPython) -and -not (Get-PythonVersion -Path $VenvPython -Arguments @())) {
        Write-Verbose "The Python of $Venv is gone: it is made anew."
        Remove-Item -LiteralPath $Venv -Recurse -Force
    }
    if (-not (Test-Path -LiteralPath $VenvPython)) {
        Write-Verbose "Makes $Venv with $path."
        Invoke-Program -Path $path -Arguments @('-m', 'venv', $Venv) -Failure 'The virtual environment could not be made'
    }
    if (-not (Test-Path -LiteralPath (Join-Path $Source 'pyproject.toml'))) {
        throw "There is no pyproject.toml in ${Source}: name a copy of the repository with -Source."
    }
    Write-Verbose "Installs Karez from $Source."
    $what = "$((Resolve-Path -LiteralPath $Source).ProviderPath)[$Extras]"
    $arguments = @('-m', 'pip', 'install', '--disable-pip-version-check', '--upgrade', $what)
    Invoke-Program -Path $VenvPython -Arguments $arguments -Failure 'pip could not install Karez'
}

function Test-Configuration {
    # The same checks that the service makes at its start, where one can see them.
    Push-Location -LiteralPath $Folder
    try {
        Invoke-Program -Path $VenvPython -Arguments @('-m', 'karez', 'check', '-c', $Config) -Failure "$Config is not right"
    }
    finally {
        Pop-Location
    }
}

function Build-Program {
    # The program that Windows starts, compiled by the compiler of .NET Framework 4, which is a part of Windows.
    $compiler = Join-Path $env:WINDIR 'Microsoft.NET\Framework64\v4.0.30319\csc.exe'
    if (-not (Test-Path -LiteralPath $compiler)) {
        throw "There is no ${compiler}: .NET Framework 4 is needed, which all supported versions of Windows bring."
    }
    $code = Join-Path $PSScriptRoot 'Service.cs'
    $arguments = @('/nologo', '/target:exe', '/platform:anycpu', "/out:$Program", '/reference:System.ServiceProcess.dll', $code)
    Invoke-Program -Path $compiler -Arguments $arguments -Failure 'The program of the service could not be compiled'
}

function Get-CommandLine {
    # What Windows starts: the program, and what it is to run.
    $bus = Join-Path $Data 'bus'
    $arguments = @($Folder, $Logs, $VenvPython, '-m', 'karez', 'deploy', '-c', $Config, '--state-dir', $bus, '-l', 'INFO')
    if ($Mode -ne 'Schedule') {
        $arguments += '--api'
    }
    (@($Program) + $arguments | ForEach-Object { '"{0}"' -f $_ }) -join ' '
}

function Install-Service {
    # Make or change the service, which runs as an account of its own without any rights but those given here.
    $command = Get-CommandLine
    Write-Debug $command
    if (Get-Service -Name $ServiceName -ErrorAction SilentlyContinue) {
        $found = Get-CimInstance -ClassName Win32_Service -Filter "Name='$ServiceName'"
        $done = Invoke-CimMethod -InputObject $found -MethodName Change -Arguments @{ PathName = $command }
        if ($done.ReturnValue -ne 0) {
            throw "The service $ServiceName could not be changed (code $($done.ReturnValue) of Win32_Service.Change)."
        }
    }
    else {
        $options = @{ DisplayName = 'Karez'; Description = 'Collects and delivers data'; StartupType = 'Automatic' }
        New-Service -Name $ServiceName -BinaryPathName $command @options | Out-Null
    }
    $failure = "The service $ServiceName could not be set up"
    Invoke-Program -Path 'sc.exe' -Arguments @('config', $ServiceName, 'obj=', $Account, 'start=', 'delayed-auto') -Failure $failure
    $actions = 'restart/5000/restart/5000/restart/30000'
    Invoke-Program -Path 'sc.exe' -Arguments @('failure', $ServiceName, 'reset=', '86400', 'actions=', $actions) -Failure $failure
    $schedule = if ($Mode -eq 'Request') { 'SCHEDULE=false' } else { 'SCHEDULE=true' }
    New-ItemProperty -Path $Key -Name Environment -PropertyType MultiString -Value ([string[]]@($schedule)) -Force | Out-Null
}

function New-Root {
    # The folders, which only administrators may change: other users may make files in ProgramData.
    foreach ($one in @($Root, $Bin, $Data, $Logs)) {
        New-Item -ItemType Directory -Path $one -Force | Out-Null
    }
    $arguments = @($Root, '/inheritance:r', '/q', '/grant:r', "${Administrators}:(OI)(CI)F", '/grant:r', "${System}:(OI)(CI)F")
    Invoke-Program -Path 'icacls.exe' -Arguments $arguments -Failure "Rights for $Root could not be set"
}

function Grant-Access {
    # The service reads what it runs and its settings, and writes its data and its log; nobody else reads the settings.
    $settings = Join-Path $Folder '.env'
    foreach ($one in @(
            @($Root, '/q', '/grant:r', "${Account}:(OI)(CI)RX"),
            @($Data, '/q', '/grant:r', "${Account}:(OI)(CI)M"),
            @($Logs, '/q', '/grant:r', "${Account}:(OI)(CI)M"),
            @($Folder, '/q', '/grant:r', "${Account}:(OI)(CI)RX"),
            @($settings, '/q', '/inheritance:r', '/grant:r', "${Administrators}:F", '/grant:r', "${System}:F", '/grant:r', "${Account}:R")
        )) {
        Invoke-Program -Path 'icacls.exe' -Arguments $one -Failure "Rights for $($one[0]) could not be set"
    }
}

function Start-Karez {
    # Start the service and wait until Karez answers on its bus.
    Write-Verbose "Starts the service $ServiceName."
    Start-Service -Name $ServiceName
    $deadline = (Get-Date).AddSeconds(120)
    while ((Get-Date) -lt $deadline -and (Get-Service -Name $ServiceName).Status -eq 'Running') {
        $status = & $VenvPython -m karez status -a nats://127.0.0.1:4222 --json
        if ($LASTEXITCODE -eq 0 -and "$status" -match '"processes"\s*:\s*[\[{]\s*["{]') {
            return
        }
        Start-Sleep -Seconds 2
    }
    Get-Content -LiteralPath (Join-Path $Logs 'karez.log') -Tail 20 -ErrorAction SilentlyContinue | Out-Host
    throw "Karez did not start: the last lines of $(Join-Path $Logs 'karez.log') are above."
}

function Uninstall-Karez {
    Stop-Karez
    if (Get-Service -Name $ServiceName -ErrorAction SilentlyContinue) {
        Invoke-Program -Path 'sc.exe' -Arguments @('delete', $ServiceName) -Failure "The service $ServiceName could not be removed"
    }
    $folders = @($Venv, $Bin)
    if ($RemoveData) {
        $folders += @($Data, $Logs)
    }
    foreach ($one in $folders) {
        if (Test-Path -LiteralPath $one) {
            Remove-Item -LiteralPath $one -Recurse -Force
        }
    }
    $rest = if ($RemoveData) { 'Nothing of it is left.' } else { "What was stored and logged is left in $Root." }
    Write-Output "The service $ServiceName is removed. $rest"
}

Assert-Administrator
if ($Uninstall) {
    Uninstall-Karez
    return
}
$Folder = (Resolve-Path -LiteralPath $Folder).ProviderPath.TrimEnd('\')
Assert-Settings
New-Root
Stop-Karez
Install-Package
Test-Configuration
Build-Program
Install-Service
Grant-Access
Start-Karez
Write-Output "Karez runs as the service $ServiceName. Its log is $Logs\karez.log, its settings are in $Folder\.env."
